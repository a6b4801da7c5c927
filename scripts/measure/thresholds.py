"""Comparison of thresholds: fixed, `auto`, `validation` and oracle, on images of all sizes.

Each set is scored as it is and mixed: cropped so that its objects have all sizes (mixed_crops.py).
Networks learn from the uncropped training images. Half of the photographs, chosen by hash of their
names, is held out: rules are developed on the other half, and the held-out half is looked at once.

    ./scripts/accuracy thresholds sets=shapes saliency=cam,ddt outputs=kept
    ./scripts/accuracy thresholds experiment=best half=held_out seeds=0,1,2

used            the boxes as the recipe segments them; the others are boxes of the map's largest
                component
fixed           the number of segmenter=threshold_refined for the maps of `best`, 0.2 for others
auto            of segmenter.threshold=auto
validation N    chosen by stage calibrate for each IoU on N boxed images, the mean of 30 draws: of
                the other half where the held-out half is scored, else of the same half, scored on
                its other photographs
oracle          the best for the scored images themselves
centre box      the best of 20 centred boxes, its size chosen on the other half
whole image     the box of the whole image

Accuracy is in percent; behind it is the difference to the oracle in points with its 95 % interval
over photographs (threshold_scores.py); `used - centre box` is in points, with the standard error,
and `below` where it is below by more than two of them. Rows by the share of the image that the
largest object has are for reading.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.errors import UserError
from scripts.measure.records import Record
from scripts.measure.runs import CUB, IMAGENETTE, compose
from scripts.measure.threshold_maps import Half, crop_scored_images, measure_half
from scripts.measure.threshold_scores import score
from scripts.measure.threshold_table import (
    Block,
    count_sizes,
    format_block,
    format_summary,
    list_records,
)

SETS: dict[str, tuple[str, ...]] = {
    "cub30": CUB,
    "imagenette": IMAGENETTE,
    "shapes": ("data=shapes",),
}
CROPS = {"cub30": 1, "imagenette": 2, "shapes": 1}
HALVES = {"develop": False, "held_out": True}


@dataclass(frozen=True)
class Recipe:
    """A recipe whose thresholds are compared.

    Attributes:
        name: as the table names it.
        experiment: the choice of `+experiment=`.
        overrides: of all its runs.
    """

    name: str
    experiment: str
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """What is compared, and where results are kept.

    Attributes:
        sets: names of SETS.
        recipes: the recipes.
        is_held_out: whether the held-out half is scored.
        seeds: of training.
        outputs: where results are kept; None: in a temporary folder.
        overrides: of all runs.
    """

    sets: Sequence[str]
    recipes: Sequence[Recipe]
    is_held_out: bool
    seeds: Sequence[int]
    outputs: str | None
    overrides: Sequence[str]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        """Parse `key=value` arguments; those of no attribute are overrides of the runs.

        Raises:
            UserError: a set or a half is not known.
        """
        given = dict(argument.split("=", 1) for argument in arguments)
        sets = given.pop("sets", ",".join(SETS)).split(",")
        half = given.pop("half", "develop")
        for key, names, known in (("sets", sets, list(SETS)), ("half", [half], list(HALVES))):
            if unknown := set(names) - set(known):
                raise UserError(f"{key}={','.join(sorted(unknown))}: expected {', '.join(known)}")
        experiments, methods = given.pop("experiment", ""), given.pop("saliency", "")
        if not experiments and not methods:
            experiments, methods = "best", "cam"
        recipes = [Recipe(name, name) for name in experiments.split(",") if name]
        recipes += [
            Recipe(name, "cam", (f"saliency={name}",)) for name in methods.split(",") if name
        ]
        seeds = [int(seed) for seed in given.pop("seeds", "0").split(",")]
        outputs = given.pop("outputs", None)
        overrides = [f"{key}={value}" for key, value in given.items()]
        return cls(sets, recipes, HALVES[half], seeds, outputs, overrides)


def run(*arguments: str) -> list[Record]:
    """Print the table of each set, variant and recipe, then a summary. Returns all numbers.

    Args:
        arguments: `sets=a,b`, `saliency=a,b` (maps of +experiment=cam), `experiment=best`,
            `half=develop` or `half=held_out`, `seeds=0,1`, `outputs=DIR` (kept, so that a second
            call trains nothing), and overrides of the runs.

    Raises:
        UserError: a set or a half is not known.
        FileNotFoundError: A data set is not on this machine.
    """
    options = Options.parse(arguments)
    blocks = []
    with ExitStack() as kept:
        folder = options.outputs or kept.enter_context(tempfile.TemporaryDirectory())
        for recipe in options.recipes:
            for name in options.sets:
                for block in _blocks(name, recipe, options, folder):
                    print(format_block(block), end="\n\n", flush=True)
                    blocks.append(block)
    print(format_summary(blocks))
    if options.is_held_out:
        print(f"The held-out half of {', '.join(options.sets)} was looked at: no rule may be")
        print("developed further on what this table shows.")
    return [record for block in blocks for record in list_records(block)]


def _blocks(name: str, recipe: Recipe, options: Options, outputs: str) -> list[Block]:
    """Score a recipe on a set as it is, and mixed."""
    plain, mixed = [], []
    for seed in options.seeds:
        overrides = [*SETS[name], *recipe.overrides, *options.overrides]
        trained = compose(recipe.experiment, *overrides, f"seed={seed}", f"outputs={outputs}")
        plain.append(measure_half(trained, options.is_held_out))
        cropped = crop_scored_images(trained, CROPS[name])
        mixed.append(measure_half(cropped, options.is_held_out))
    return [
        _block(f"{name}/{recipe.name}", plain, options),
        _block(f"{name}-mixed/{recipe.name}", mixed, options),
    ]


def _block(name: str, seeds: Sequence[Half], options: Options) -> Block:
    """Score measured maps, the mean over seeds."""
    scored = seeds[0].scored
    half = "held-out" if options.is_held_out else "develop"
    sample = f"n={len(scored)} of {len(set(scored.sources))} photographs, {half} half, seed "
    sample += ",".join(map(str, options.seeds))
    return Block(name, sample, count_sizes(scored.shares), score(seeds))
