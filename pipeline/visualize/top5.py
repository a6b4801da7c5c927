"""View `top5`: the five most probable classes of some images, and the map of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipeline.ops.text import format_probability, printable
from pipeline.plotting import colours
from pipeline.plotting.grids import Cell, draw_grid, fit_longer_side
from pipeline.protocols import HasSeveralLabels
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.photos import read_photos

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8

PANEL = 224
MAX_CLASSES = 5


@dataclass(frozen=True)
class Top5:
    """Show the maps of the classes that the network finds most probable."""

    few: int = 4  # images

    reads_data: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = True

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Show the most probable classes of a few images, in the precision of the run."""
        positions, pixels = read_photos(subject, self.few)
        count = min(MAX_CLASSES, len(subject.trained.classes))
        explanation = subject.explain(
            subject.trained.tensor(pixels), lambda logits: logits.topk(count, dim=1).indices
        )
        with torch.no_grad():
            probabilities = subject.trained.network.probabilities(explanation.logits.float())
            probabilities = probabilities.gather(1, explanation.classes)
        maps = explanation.maps.detach().float().cpu().numpy()
        classes, shares = explanation.classes.cpu().numpy(), probabilities.cpu().numpy()
        cells: list[Cell] = []
        records: list[dict[str, Any]] = []
        for n, position in enumerate(positions):
            image, label = _describe(subject, position)
            small = fit_longer_side(pixels[n], PANEL)
            tops = _show_classes(subject, small, maps[n], classes[n], shares[n])
            cells += [Cell(small, image, label), *tops]
            top = [
                {"class": cell.name, "probability": float(share)}
                for cell, share in zip(tops, shares[n], strict=True)
            ]
            records.append({"image": image, "label": label, "top": top})
        title = f"{subject.network_name}: the {count} most probable classes"
        notes = [f"where it looks for each: {subject.method}, each map to its own maximum"]
        return ViewResult(
            sheets={"": draw_grid(title, notes, cells, count + 1)},
            numbers={"method": subject.method, "images": records},
        )


def _describe(subject: ViewSubject, position: int) -> tuple[str, str]:
    """Return an image's name, and that of its label where it has one."""
    image = printable(subject.data.ids(subject.split)[position])
    if not subject.data.classes:
        return image, ""
    labels = [int(subject.data.labels(subject.split)[position])]
    if isinstance(subject.data, HasSeveralLabels) and subject.data.is_multi_label:
        labels = np.flatnonzero(subject.data.label_sets(subject.split)[position]).tolist()
    return image, printable(", ".join(subject.trained.classes[n] for n in labels if n >= 0))


def _show_classes(
    subject: ViewSubject,
    picture: UInt8[np.ndarray, "h w 3"],
    maps: Float32[np.ndarray, "t h w"],
    classes: Int[np.ndarray, "t"],
    probabilities: Float[np.ndarray, "t"],
) -> list[Cell]:
    """Return the image overlaid with the map of each class, with name and probability."""
    frame = picture.shape[0], picture.shape[1]
    cells = []
    for values, number, probability in zip(maps, classes, probabilities, strict=True):
        unit = colours.scale_positive(colours.resize_to_frame(values, frame), 99.0)
        name = printable(subject.trained.classes[int(number)])
        shown = format_probability(float(probability))
        cells.append(Cell(colours.overlay_map(picture, unit), name, shown))
    return cells
