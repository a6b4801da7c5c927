"""Images made by gradient ascent, as the views `classes` and `channels` show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.engine import runtime, shards
from pipeline.engine.progress import show_progress
from pipeline.formats.files import write_json
from pipeline.ops.hashing import hash_of
from pipeline.ops.text import format_probability
from pipeline.plotting import grids
from pipeline.plotting.grids import Cell, across, fit, grid, save
from pipeline.stages.inspect.inspection import Inspection, float32

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pipeline.visualize.ascent import Ascent, Bounds

PANEL = 224  # the side of a picture on a sheet
AT_ONCE = 32  # images that rise together at most
# What of the objective is left to the style: (penalty, variation, jitter's share of the side, blur)
STYLES = {"plain": (0.02, 0.0, 0.0, 0.0), "pretty": (1e-4, 1e-4, 1 / 16, 0.8)}
PARTS = ("steps", "rate", "penalty", "variation", "jitter", "blur")


@dataclass(frozen=True)
class Goal:
    """What the images of a view are made for."""

    view: str
    heading: str
    what: str  # rises: the score's name
    wanted: Sequence[int]  # a number for each image
    titles: Sequence[str]
    files: Sequence[str]
    climb: Callable[..., tuple[Tensor, Tensor]]
    """Of `images` and `which`, their numbers: each one's score, and the score's gradient."""
    probability: Callable[[Tensor, int], float] | None = None


def climbed(inspection: Inspection, goal: Goal) -> list[str]:
    """Make the images of a goal, their sheet, their curves and their numbers."""
    import torch

    ascent, style = _ascent(inspection), inspection.option("style")
    trained, folder = inspection.trained, inspection.folder
    limits = None if style == "plain" else bounds(inspection)
    cells, records, curves, asleep = [], [], {}, []
    triples = list(zip(goal.wanted, goal.titles, goal.files, strict=True))
    size = min(shards.inference_batch_size(inspection.run), AT_ONCE)
    with show_progress(f"inspect: {goal.view}", len(triples)) as advance:
        for some in runtime.split_into_batches(triples, size):
            numbers = [number for number, _, _ in some]
            start = torch.stack([_start(inspection, goal.view, number) for number in numbers])
            start = start.contiguous(memory_format=torch.channels_last)
            with float32(start):
                climb = partial(goal.climb, which=numbers)
                found = ascent(climb, start, inspection.run.config["seed"], limits)
                shares = [
                    goal.probability(image, number) if goal.probability else None
                    for image, number in zip(found.images, numbers, strict=True)
                ]
            for n, (number, title, file) in enumerate(some):
                first, last = float(found.score[n, 0]), float(found.score[n, -1])
                records.append(
                    {
                        "name": title,
                        "number": number,
                        "first": first,
                        "last": last,
                        **({} if shares[n] is None else {"probability": shares[n]}),
                        "score": found.score[n].tolist(),
                        "objective": found.objective[n].tolist(),
                    }
                )
                curves[title] = found.score[n].double().cpu().numpy()
                moved = bool((found.images[n] != start[n]).any())
                asleep += [] if moved else [title]
                image = found.images[n].permute(1, 2, 0).float().cpu().numpy()
                picture = grids.made_visible(image, trained.mean, trained.std, limits is None)
                save(folder / goal.view / f"{file}.png", picture)
                share = shares[n]
                note = f"{first:z.1f} to {last:z.1f}"
                note += "" if share is None else f"; p {format_probability(share)}"
                shown = note if moved else "no gradient where it starts"
                cells.append(Cell(fit(picture, PANEL), title, f"{goal.what} {shown}"))
            advance(len(some))
    formula = _formula(ascent, style, goal.what)
    title = f"{inspection.network_name}{goal.heading}"
    save(folder / f"{goal.view}.png", grid(title, [formula], cells, across(len(cells))))
    save(
        folder / f"{goal.view}_rise.png",
        grids.rise(title, formula, goal.what, curves),
    )
    parts = {name: getattr(ascent, name) for name in PARTS}
    kept = {"ascent": parts, "style": style, "images": records}
    write_json(folder / f"{goal.view}.json", kept, indent=1)
    return [
        f"{goal.view}: nothing in the mean image moves {one}; inspect.noise=1 starts elsewhere"
        for one in asleep
    ]


def bounds(inspection: Inspection) -> Bounds:
    """Black and white as the network reads them."""
    import torch

    trained, device = inspection.trained, inspection.run.device
    mean, std = (torch.tensor(one, device=device) for one in (trained.mean, trained.std))
    return (0 - mean) / std, (1 - mean) / std


def _ascent(inspection: Inspection) -> Ascent:
    from pipeline.visualize.ascent import Ascent

    option = inspection.option
    penalty, variation, share, blur = STYLES[option("style")]
    styled: dict[str, Any] = {
        "penalty": penalty,
        "variation": variation,
        "jitter": round(share * min(inspection.run.size)),
        "blur": blur,
    }
    given = {name: option(name) for name in styled if option(name) is not None}
    return Ascent(option("steps"), option("rate"), **{**styled, **given})


def _formula(ascent: Ascent, style: str, what: str) -> str:
    formula = f"argmax {what} - {ascent.penalty:g} |I|^2"
    if style == "pretty":
        formula += f" - {ascent.variation:g} TV, jitter {ascent.jitter}, blur {ascent.blur:g}"
    else:
        formula += " (Simonyan et al. 2013, equation 1)"
    return formula + "; contrast stretched"


def _start(inspection: Inspection, view: str, number: int) -> Float[Tensor, "3 H W"]:
    """The mean image, with noise that is this image's own, whatever it is computed with."""
    import torch

    run, noise = inspection.run, inspection.option("noise")
    if not noise:
        return torch.zeros(3, *run.size, device=run.device)
    seed = int(hash_of([run.config["seed"], view, number]), 16) % 2**63
    drawn = torch.randn(3, *run.size, generator=torch.Generator().manual_seed(seed))
    start: Tensor = noise * drawn.to(run.device)
    return start
