"""Dream: some photographs, in which the layer sees more of what it sees there (DeepDream).

    argmax_I  1/2 mean A(I)^2        from the photograph, in octaves

Mordvintsev, Olah and Tyka 2015; pipeline/visualize/deep_dream.py. Of the whole layer, or where
`inspect.channels` names some, of each of these alone. A photograph keeps its shape, its longer side
is `inspect.side`: the network must take images of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import shards
from pipeline.engine.progress import show_progress
from pipeline.errors import UserError
from pipeline.formats.files import image_file_stem, write_json
from pipeline.ops.maps import scale_size
from pipeline.ops.text import printable
from pipeline.plotting import grids
from pipeline.plotting.grids import Cell, fit, framed, grid, save, sized
from pipeline.stages.inspect.ascents import bounds
from pipeline.stages.inspect.inspection import Inspection, float32
from pipeline.types import Example, Size

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.visualize.deep_dream import Dream

PANEL = 320


def reads_data(options: Mapping[str, Any]) -> bool:
    return True


def make(inspection: Inspection) -> list[str]:
    from pipeline.visualize.deep_dream import Dream, excited

    run, trained, layer = inspection.run, inspection.trained, inspection.layer
    dream = Dream(
        inspection.option("octaves"),
        steps=inspection.option("dream_steps"),
        rate=inspection.option("dream_rate"),
    )
    channels: list[int | None] = [*inspection.given_channels()] or [None]
    ids, limits = run.data.ids(run.split), bounds(inspection)
    photos = _photos(inspection)
    cells, records, curves, octaves = [], [], {}, 0
    with show_progress("inspect: dream", len(photos) * len(channels)) as advance:
        for position, pixels in photos:
            photo = trained.tensor(pixels[None])
            _check_size(inspection, dream, photo)
            name = printable(ids[position])
            cells.append(Cell(fit(pixels, PANEL), name))
            for channel in channels:
                climb = excited(trained.network, layer, [] if channel is None else [channel])
                with float32(photo):
                    found = dream(climb, photo, run.config["seed"], limits)
                picture = _pixels(inspection, found.image)
                what = f"feature map {channel}" if channel is not None else f"layer {layer}"
                file = f"{position + 1:06d}-{image_file_stem(ids[position])}"
                file += f"-{channel}" if channel is not None else ""
                save(inspection.folder / "dream" / f"{file}.png", picture)
                octaves = max(octaves, len(found.sizes))
                first, last = float(found.scores[-1][0]), float(found.scores[-1][-1])
                cells.append(Cell(fit(picture, PANEL), what, f"{first:.3g} to {last:.3g}"))
                # Before each step, in whatever octave, and after the very last.
                before = [score for one in found.scores for score in one[:-1].tolist()]
                curves[name if channel is None else f"{name}, {what}"] = np.array([*before, last])
                records.append(
                    {
                        "image": name,
                        "map": channel,
                        "sizes": [list(size) for size in found.sizes],
                        "score": [one.tolist() for one in found.scores],
                    }
                )
                advance(1)
    formula = (
        f"half the mean square of its activations; {octaves} octaves of {dream.steps} steps "
        "(Mordvintsev et al. 2015); numbers: of the last octave"
    )
    title = f"{inspection.network_name}, layer {layer}: a dream"
    # Each photograph and its dreams in a row; where that is but two, two rows side by side.
    across = 4 if len(channels) == 1 else 1 + len(channels)
    pictures = framed([cell.picture for cell in cells])
    cells = [replace(cell, picture=one) for cell, one in zip(cells, pictures, strict=True)]
    save(inspection.folder / "dream.png", grid(title, [formula], cells, across))
    rise = grids.rise(title, formula, "half the mean square", curves)
    save(inspection.folder / "dream_rise.png", rise)
    parts = {name: getattr(dream, name) for name in ("octaves", "scale", "steps", "rate", "jitter")}
    kept = {"layer": layer, "dream": parts, "images": records}
    write_json(inspection.folder / "dream.json", kept, indent=1)
    return []


def _photos(inspection: Inspection) -> list[tuple[int, np.ndarray]]:
    """A few images in their own shape; those that cannot be read are left out."""
    run, side = inspection.run, inspection.option("side")
    found = [(p, shards.read_image(run, run.split, p)) for p in inspection.few()]
    good = [
        (p, sized(e.image, *scale_size(e.image.shape, side)))
        for p, e in found
        if isinstance(e, Example)
    ]
    if not good:
        raise inspection.unreadable()
    return good


def _check_size(inspection: Inspection, dream: Dream, photo: Tensor) -> None:
    """Raises UserError where the network cannot read an octave."""
    import torch

    from pipeline.visualize.deep_dream import resized

    size: Size = dream.sizes((photo.shape[2], photo.shape[3]))[0]
    try:
        with torch.no_grad(), float32(photo):
            inspection.trained.network(resized(photo, size))
    except (AssertionError, RuntimeError) as error:  # as networks of one size refuse another
        raise UserError(
            f"inspect.views: dream: {inspection.network_name} cannot read an image of "
            f"{size[0]} x {size[1]}, which an octave is ({str(error).strip().splitlines()[0]}); "
            "a network of convolutions and pooling can; leave dream away"
        ) from error


def _pixels(inspection: Inspection, image: Tensor) -> np.ndarray:
    """From what the network reads to what a picture holds."""
    trained = inspection.trained
    values = image[0].permute(1, 2, 0).float().cpu().numpy() * trained.std + trained.mean
    return np.asarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
