"""Audit: can the maps of a method on this network be believed?

    audit.json   every number: its mean, its interval, whether low or high is good
    images.json  the numbers of each image
    audit.txt    the table
    pictures/    one for each test

A few images are chosen evenly from the split; each test (pipeline/audit/) is kept in shards of its
own, so that a killed run goes on. Maps are of the first class of `explain.target`, and made anew in
float32, so that only the test moves them; faithfulness asks the network in the precision of the
run. Sanity and fragility cost tens of passes an image: they see `audit.few` of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, shards, terminal
from pipeline.engine.images import segment_map
from pipeline.engine.methods import check_methods, parse_targets, prepare_method
from pipeline.engine.run import Run
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import atomic_write, write_json, write_text
from pipeline.ops.bootstrap import interval
from pipeline.ops.hashing import hash_of
from pipeline.ops.iou import pairwise_iou
from pipeline.protocols import SaliencyMethod
from pipeline.results.audit_table import NUMBERS, format_audit
from pipeline.results.shards import list_shards
from pipeline.saliency.targets import class_selector
from pipeline.types import Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

PIECE = 4  # images that go through a test together
SEEN, SHARDS_SEEN = 2, 2  # of these, in the first shards, are kept as pictures
FEW = ("sanity", "fragility")


def cache_key(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources(__name__, "data", "saliency", "segmenter"),
        "explain": run.cache_key("explain"),
        "segmenter": run.config["segmenter"],
        "audit": run.config["audit"],
        "seed": run.config["seed"],
    }


def check(run: Run) -> None:
    """Raises UserError for what stage explain would refuse, where it does not itself."""
    if "explain" not in run.config["stages"]:
        check_methods(run)


def make(run: Run, folder: Path) -> None:
    trained = checkpoint.load(run.checkpoint, run.device)
    audit = Audit(run, trained, prepare_method(run, trained))
    notes = []
    for test in run.config["audit"]["tests"]:
        if refused := audit.refuses(test):
            notes.append(f"{test}: not done; {refused}")
            continue
        positions = chosen(run, test)
        shards.write_shards(
            folder / test,
            f"audit: {test}",
            len(positions),
            PIECE,
            PIECE,
            audit.flow(test, positions),
            shards.concatenate_parts,
            list(positions),
        )
    found = {test: arrays_of(folder / test) for test in NUMBERS if (folder / test).is_dir()}
    if not any(found.values()):
        raise UserError(f"audit: no image could be read; {'; '.join(notes)}")
    for shard in (one for test in found for one in list_shards(folder / test)):
        for position, why in read_arrays(shard)[1]["set_aside"]:
            notes.append(f"{run.data.ids(run.split)[position]}: {why}")
    from pipeline.stages.audit import pictures

    records = records_of(run, found)
    write_json(
        folder / "audit.json",
        {"method": run.method, "numbers": records, "notes": list(dict.fromkeys(notes))},
        indent=1,
    )
    write_json(folder / "images.json", images_of(run, found))
    write_text(folder / "audit.txt", format_audit([(run.method, records)]))
    for test, arrays in found.items():
        if arrays:
            picture = pictures.of(test, arrays, audit.facts(test))
            with atomic_write(folder / "pictures" / f"{test}.png") as path:
                picture.save(path, "png")
    for note in dict.fromkeys(notes):
        terminal.print_line(f"audit: {note}")


def chosen(run: Run, test: str) -> list[int]:
    """Positions of the images, evenly over the split; `few` of them where a test costs much."""
    options, count = run.config["audit"], len(run.data.ids(run.split))
    if count == 0:
        raise UserError(f"audit: the split {run.split} has no image; see data.* and explain.split")
    every = [
        n * count // min(count, options["images"]) for n in range(min(count, options["images"]))
    ]
    if test not in FEW:
        return every
    few = min(len(every), options["few"])
    return [every[n * len(every) // few] for n in range(few)]


# -- a batch through a test ----------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """One method on one network."""

    run: Run
    trained: checkpoint.Checkpoint
    method: SaliencyMethod

    def flow(
        self, test: str, positions: Sequence[int]
    ) -> Callable[[Iterator[range]], Iterator[tuple[shards.Arrays, shards.Skipped]]]:
        through = shards.network_flow(self.run, self.run.split, getattr(self, f"_{test}"))
        return lambda pieces: through([positions[n] for n in piece] for piece in pieces)

    def refuses(self, test: str) -> str:
        """Why a test cannot be done on this network; empty: it can."""
        if test != "input_shift":
            return ""
        import torch

        from pipeline.audit.input_shift import shifted

        try:
            image = torch.zeros(1, 3, *self.trained.size, device=self.run.device)
            shifted(self.trained.network, image, self._shift())
        except UserError as problem:
            return str(problem)
        return ""

    def facts(self, test: str) -> dict[str, Any]:
        """What a picture says beside the numbers."""
        from pipeline.audit.fragility import TOP
        from pipeline.audit.sanity import parts

        run, options = self.run, self.run.config["audit"]
        return {
            "method": run.method,
            "network": _called(self.trained.card["model"]),
            "classes": self.trained.classes,
            "parts": [part.name for part in parts(self.trained.network, options["layers"])],
            "epsilon": options["epsilon"],
            "shift": options["shift"],
            "top": TOP,
            "seed": run.config["seed"],
        }

    def _faithfulness(self, batch: shards.PositionedExamples) -> shards.Arrays:
        from pipeline.audit.faithfulness import SHARES, faithfulness

        images, classes, maps_of = self._begun(batch)
        maps = maps_of(self.trained.network, images)
        found = faithfulness(
            self._logits, images, classes, maps, self._seeds(batch), self._option("steps")
        )
        arrays = {name: _numpy(one) for name, one in found.items()}
        arrays["share"] = np.tile(np.array(SHARES, np.float32), (len(batch), 1))
        return {**self._named(batch, classes), **arrays}

    def _seen(self, test: str, batch: shards.PositionedExamples) -> int:
        """How many of a batch are kept to look at: few, however many images are audited."""
        first = chosen(self.run, test)[: PIECE * SHARDS_SEEN]
        return SEEN if batch[0][0] in first else 0

    def _sanity(self, batch: shards.PositionedExamples) -> shards.Arrays:
        from pipeline.audit.sanity import MODES, sanity

        images, classes, maps_of = self._begun(batch)
        with _float32(images):
            found = sanity(
                self.trained.network,
                maps_of,
                images,
                self._option("layers"),
                self.run.config["seed"],
            )
        seen = self._seen("sanity", batch)
        pictures = found.pop("maps")[:seen]
        arrays = {name: _numpy(one) for name, one in found.items()}
        for measure in ("ssim", "rank"):
            arrays[f"head_{measure}"] = arrays[measure][:, 0, 0]
            for n, mode in enumerate(MODES):
                arrays[f"{mode}_{measure}"] = arrays[measure][:, n].mean(1)
        return {
            **self._named(batch, classes),
            **arrays,
            "seen_image": shards.stack_pixels(batch)[:seen],
            "seen_maps": _numpy(pictures).astype(np.float16),
        }

    def _input_shift(self, batch: shards.PositionedExamples) -> shards.Arrays:
        from pipeline.audit.input_shift import input_shift

        images, classes, maps_of = self._begun(batch)
        with _float32(images):
            found = input_shift(
                self.trained.network,
                maps_of,
                lambda network, some: self._logits(some, network),
                images,
                self._shift(),
            )
        count = self._seen("input_shift", batch)
        seen = [_numpy(found.pop(name)[:count]) for name in ("before", "after")]
        return {
            **self._named(batch, classes),
            **{f"shift_{name}": _numpy(one) for name, one in found.items()},
            "seen": shards.stack_positions(batch)[:count],
            "seen_image": shards.stack_pixels(batch)[:count],
            "seen_before": seen[0],
            "seen_after": seen[1],
        }

    def _fragility(self, batch: shards.PositionedExamples) -> shards.Arrays:
        from pipeline.audit.fragility import Bounds, fragility

        images, classes, maps_of = self._begun(batch)
        trained = self.trained
        bounds = Bounds.of(trained.mean, trained.std, self._option("epsilon"), images.device)
        with _float32(images):
            before, found = fragility(
                trained.network,
                maps_of,
                self._logits,
                images,
                classes,
                bounds,
                self._seeds(batch),
                self._option("attack_steps"),
            )
        arrays: shards.Arrays = {}
        count = self._seen("fragility", batch)
        first = self._boxes(batch, classes, before)
        for name, moved in found.items():
            arrays[f"{name}_top_k"] = _numpy(moved.top_k)
            arrays[f"{name}_rank"] = _numpy(moved.rank)
            arrays[f"{name}_kept"] = _numpy(moved.kept)
            boxes = self._boxes(batch, classes, moved.maps)
            arrays[f"{name}_box"] = boxes
            arrays[f"{name}_iou"] = np.array(
                [pairwise_iou(a[None], b[None])[0, 0] for a, b in zip(first, boxes, strict=True)]
            )
            arrays[f"seen_{name}"] = self._picture(moved.images[:count])
            arrays[f"seen_{name}_map"] = _numpy(moved.maps[:count])
        return {
            **self._named(batch, classes),
            **arrays,
            "box": first,
            "size": np.array([example.size for _, example in batch], np.int32),
            "seen": shards.stack_positions(batch)[:count],
            "seen_image": shards.stack_pixels(batch)[:count],
            "seen_map": _numpy(before[:count]),
        }

    # -- what the tests share

    def _option(self, name: str) -> Any:
        return self.run.config["audit"][name]

    def _shift(self) -> Float[Tensor, "3"]:
        import torch

        std = torch.tensor(self.trained.std, device=self.run.device)
        return float(self._option("shift")) / std

    def _begun(
        self, batch: shards.PositionedExamples
    ) -> tuple[Tensor, Tensor, Callable[[nn.Module, Tensor], Tensor]]:
        """Images, the class of each, and how a network's maps of these classes are made."""
        images = self.trained.tensor(shards.stack_pixels(batch))
        labels = shards.stack_labels(batch, images.device)
        choose = class_selector(parse_targets(self.run), self.trained.classes, labels)
        classes = choose(self._logits(images))[:, 0]

        def maps_of(network: Any, some: Tensor) -> Tensor:
            with _float32(some):
                made = self.method(network, some, lambda logits: classes[:, None])
            return made.maps[:, 0].detach().float()

        return images, classes, maps_of

    def _logits(self, images: Tensor, network: Any = None) -> Tensor:
        import torch

        with torch.no_grad():
            answer: Tensor = (network or self.trained.network)(images).logits.float()
        return answer

    def _seeds(self, batch: shards.PositionedExamples) -> list[int]:
        """Of each image its own, so that no result hangs on how images are put together."""
        seed = self.run.config["seed"]
        return [int(hash_of([seed, position]), 16) for position, _ in batch]

    def _named(self, batch: shards.PositionedExamples, classes: Tensor) -> shards.Arrays:
        return {"image": shards.stack_positions(batch), "class": _numpy(classes).astype(np.int32)}

    def _picture(self, images: Tensor) -> np.ndarray:
        """Back to uint8 [b, H, W, 3]."""
        mean, std = np.array(self.trained.mean), np.array(self.trained.std)
        pixels = _numpy(images.permute(0, 2, 3, 1)) * std + mean
        return np.ascontiguousarray(np.round(pixels * 255).clip(0, 255).astype(np.uint8))

    def _boxes(self, batch: shards.PositionedExamples, classes: Tensor, maps: Tensor) -> np.ndarray:
        """The best box that the run's own segmenter cuts from each map; none: of no size."""
        segmenter, found = self.run.segmenter(), []
        for (position, example), label, values in zip(
            batch, classes.tolist(), _numpy(maps), strict=True
        ):
            saliency = _as_kept(example, label, values)
            boxes = segment_map(self.run, segmenter, position, saliency)
            if isinstance(boxes, SkippedImage) or not len(boxes.boxes):
                found.append(np.zeros(4, np.float32))
            else:
                found.append(boxes.boxes[0])
        return np.stack(found)


def _as_kept(example: Example, label: int, values: Float[np.ndarray, "h w"]) -> SaliencyMap:
    """A map as stage explain keeps it, so that its box is the same."""
    return SaliencyMap.of(example.id, label, label, 1.0, values, example.size)


def _called(model: Mapping[str, Any]) -> str:
    """A network's name, or that of its kind."""
    return str(model["name"] if "name" in model else model["_target_"].split(".")[-2])


def _float32(images: Tensor) -> Any:
    import torch

    return torch.autocast(images.device.type, enabled=False)


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


# -- what comes of it ----------------------------------------------------------------------------


def arrays_of(folder: Path) -> shards.Arrays:
    """All shards of a test."""
    found = [read_arrays(shard)[0] for shard in list_shards(folder)]
    found = [arrays for arrays in found if arrays]
    names = found[0] if found else ()
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in names}


def records_of(run: Run, found: Mapping[str, shards.Arrays]) -> list[dict[str, Any]]:
    """The mean of each number over the images and its 95 % bootstrap interval; then that of each
    part of the network that was made random."""
    from pipeline.audit.sanity import MEASURES, MODES, parts

    records = []

    def add(test: str, name: str, values: np.ndarray, good: str, part: str | None = None) -> None:
        low, high = interval(values.astype(np.float64), seed=run.config["seed"])
        records.append({"test": test, "name": name, "part": part, "value": float(values.mean()),
                        "n": len(values), "interval": [low, high], "good": good,
                        "method": run.method})  # fmt: skip

    for test, arrays in found.items():
        for number in NUMBERS[test] if arrays else ():
            add(test, number.name, arrays[number.name], number.good)
    if sanity := found.get("sanity"):
        network = checkpoint.load(run.checkpoint, run.device).network
        names = [part.name for part in parts(network, run.config["audit"]["layers"])]
        for m, mode in enumerate(MODES):
            for measure in MEASURES:
                for n, part in enumerate(names):
                    add("sanity", f"{mode}_{measure}", sanity[measure][:, m, n], "low", part)
    return records


def images_of(run: Run, found: Mapping[str, shards.Arrays]) -> list[dict[str, Any]]:
    """The numbers of each image, by test."""
    ids, images = run.data.ids(run.split), dict[int, dict[str, Any]]()
    for test, arrays in found.items():
        for n, position in enumerate(arrays.get("image", np.zeros(0, int)).tolist()):
            one = images.setdefault(
                position, {"id": ids[position], "class": run.classes[int(arrays["class"][n])]}
            )
            one[test] = {
                name: np.round(values[n].astype(float), 5).tolist()
                for name, values in arrays.items()
                if not name.startswith("seen") and name not in ("image", "class", "share")
            }
    return [images[position] for position in sorted(images)]
