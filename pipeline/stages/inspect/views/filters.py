"""Filters: the weights of the first convolution, as the colours they answer to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.formats.files import write_json
from pipeline.plotting.grids import Cell, grid, save, sized
from pipeline.stages.inspect.inspection import Inspection

FILTER = 72  # the side of a filter on the sheet, or somewhat less: a whole number of times its own
ACROSS = 12


def reads_data(options: Mapping[str, Any]) -> bool:
    return False


def make(inspection: Inspection) -> list[str]:
    from torch import nn

    reading_colours = (
        (name, module)
        for name, module in inspection.trained.network.body.named_modules()
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 3
    )
    name, module = next(reading_colours, ("", None))
    if module is None:
        return ["filters: no convolution of this network reads red, green and blue"]
    weights = module.weight.detach().float().permute(0, 2, 3, 1).cpu().numpy()
    height, width = (int(n) for n in weights.shape[1:3])
    times = max(FILTER // max(height, width), 1)
    cells = [
        Cell(sized(_coloured(one), times * height, times * width, smooth=False), str(n))
        for n, one in enumerate(weights)
    ]
    title = f"{inspection.network_name}: the {len(weights)} filters of {name}, {height} x {width}"
    notes = ["mid-grey is 0; each scaled to its own largest weight"]
    save(inspection.folder / "filters.png", grid(title, notes, cells, ACROSS))
    kept = {"layer": name, "largest": np.abs(weights).max((1, 2, 3)).tolist()}
    write_json(inspection.folder / "filters.json", kept, indent=1)
    return []


def _coloured(one: np.ndarray) -> np.ndarray:
    """Red, green and blue about mid-grey, to the largest weight."""
    most = float(np.abs(one).max()) or 1.0
    return np.asarray(np.rint((0.5 + 0.5 * one / most) * 255).astype(np.uint8))
