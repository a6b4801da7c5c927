"""View `filters`: the weights of the first convolution as red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from torch import nn

from pipeline.plotting.grids import Cell, draw_grid, resize_picture
from pipeline.types import ViewResult, ViewSubject

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

FILTER = 72  # the side of a filter on the sheet at most: an integer multiple of its side
COLUMNS = 12


@dataclass(frozen=True)
class Filters:
    """Show the filters of the first convolution that reads red, green and blue."""

    reads_data: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Show each filter, scaled to its own largest weight."""
        body = cast(nn.Module, subject.trained.network).get_submodule("body")
        convolutions = (
            (name, module)
            for name, module in body.named_modules()
            if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 3
        )
        name, module = next(convolutions, ("", None))
        if module is None:
            return ViewResult(notes=["no convolution of this network reads red, green and blue"])
        weights = module.weight.detach().float().permute(0, 2, 3, 1).cpu().numpy()
        height, width = (int(n) for n in weights.shape[1:3])
        times = max(FILTER // max(height, width), 1)
        size = times * height, times * width
        cells = [
            Cell(resize_picture(colour_filter(values), *size, smooth=False), str(n))
            for n, values in enumerate(weights)
        ]
        title = f"{subject.network_name}: the {len(weights)} filters of {name}, {height} x {width}"
        notes = ["mid-grey is 0; each scaled to its own largest weight"]
        numbers = {"layer": name, "largest": np.abs(weights).max((1, 2, 3)).tolist()}
        return ViewResult(sheets={"": draw_grid(title, notes, cells, COLUMNS)}, numbers=numbers)


def colour_filter(weights: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return weights as colours: 0 is mid-grey, the largest magnitude is full colour."""
    largest = float(np.abs(weights).max()) or 1.0
    return np.asarray(np.rint((0.5 + 0.5 * weights / largest) * 255).astype(np.uint8))
