"""Features: what a feature map looks for, in the images of a data set that excite it most.

Zeiler and Fergus 2014, figure 2: of each map nine patches, and that activation sent back to the
image by deconvnet and by guided backpropagation; pipeline/stages/inspect/feature_maps.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.progress import show_progress
from pipeline.errors import UserError
from pipeline.formats.files import write_json
from pipeline.ops.text import printable
from pipeline.plotting import colours
from pipeline.plotting.grids import mosaic, save
from pipeline.plotting.sheet import Row, contact
from pipeline.stages.inspect.inspection import Inspection, float32

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

PATCH = 104  # the side of one of nine
CLIP = 98.0  # the percentile of a projection that is the strongest colour


def reads_data(options: Mapping[str, Any]) -> bool:
    return True


def make(inspection: Inspection) -> list[str]:
    import torch

    from pipeline.stages.inspect import feature_maps

    run, layer, trained = inspection.run, inspection.layer, inspection.trained
    network, ids = trained.network, run.data.ids(run.split)
    strongest, channels = inspection.strongest(), inspection.channels()
    image = torch.zeros(1, 3, *run.size, device=run.device)
    with float32(image):
        fields = feature_maps.Fields.of(network, image, layer)
    rows, records, refused, shut, every = [], [], "", 0, 0
    with show_progress("inspect: features", len(channels), unit="maps") as advance:
        for channel in channels:
            positions = strongest.image[channel].tolist()
            places = strongest.place[channel].tolist()
            values = strongest.value[channel].tolist()
            pixels = np.stack(
                [run.data.example(run.split, p, at=run.size).image for p in positions]
            )
            seen = [fields.at(place) for place in places]
            patches = [feature_maps.cut(one, at) for one, at in zip(pixels, seen, strict=True)]
            panels = [mosaic(patches, 3, PATCH)]
            images = trained.tensor(pixels)
            where = torch.tensor(places, device=images.device)
            for name, rule in feature_maps.RULES.items():
                if refused:
                    continue
                try:
                    with float32(images):
                        back = feature_maps.projected(network, images, layer, channel, where, rule)
                except UserError as problem:
                    refused = str(problem)
                    continue
                empty = (back == 0).flatten(1).all(1)
                shut += int(empty.sum()) if name == "guided backprop" else 0
                shown = [
                    feature_maps.cut(_coloured(one, at), at)
                    for one, at in zip(back.permute(0, 2, 3, 1).cpu().numpy(), seen, strict=True)
                ]
                panels.append(mosaic(shown, 3, PATCH))
            every += len(positions)
            note = f"{values[0]:.2f} to {values[-1]:.2f}"
            rows.append(Row(f"feature map {channel}", note, panels))
            wide = fields.features.shape[3]
            records.append(
                {
                    "map": channel,
                    "strongest": [
                        {
                            "image": printable(ids[p]),
                            "value": value,
                            "row": place // wide,
                            "column": place % wide,
                            "box": [at[1].start, at[0].start, at[1].stop, at[0].stop],
                        }
                        for p, value, place, at in zip(positions, values, places, seen, strict=True)
                    ],
                }
            )
            advance(1)
    height, width = fields.size
    count = min(inspection.option("images"), len(ids))
    columns = ["image patches", *feature_maps.RULES][: min(len(row.panels) for row in rows)]
    beyond = ": more than the image" if height > run.size[0] and width > run.size[1] else ""
    sheet = contact(
        f"{inspection.network_name}, layer {layer}: what its feature maps look for",
        f"strongest of {count} images; receptive field {height} x {width} pixels{beyond}",
        columns,
        [Row(row.name, row.note, row.panels[: len(columns)]) for row in rows],
        3 * (PATCH + 3) - 3,
        [],
        len(columns),
    )
    save(inspection.folder / "features.png", sheet)
    kept = {"layer": layer, "images": count, "receptive_field": [height, width]}
    write_json(inspection.folder / "features.json", {**kept, "maps": records}, indent=1)
    notes = [f"features: patches alone; {refused}"] if refused else []
    if shut:
        notes.append(
            f"features: {shut} of {every} of guided "
            "backprop are empty: no open way back, or an activation at the ceiling of a ReLU6"
        )
    return notes


def _coloured(
    back: Float32[np.ndarray, "H W 3"], field: tuple[slice, slice]
) -> UInt8[np.ndarray, "H W 3"]:
    """In colours, the strongest by what comes back within the field: elsewhere all is 0."""
    rows, columns = (slice(max(one.start, 0), one.stop) for one in field)
    whole = np.zeros(back.shape, np.uint8)
    whole[rows, columns] = colours.in_colour(back[rows, columns], CLIP)
    return whole
