"""View `features`: the images of a data set with the strongest activations of feature maps.

Zeiler and Fergus 2014, figure 2: of each map nine patches, and the activation projected back to the
image by deconvnet and by guided backpropagation; pipeline/visualize/feature_maps.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.ops.precision import disable_autocast
from pipeline.ops.relu_rules import Rule
from pipeline.ops.text import printable
from pipeline.plotting import colours
from pipeline.plotting.grids import draw_mosaic
from pipeline.plotting.sheet import ContactSheet, Row
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.feature_maps import (
    GUIDED,
    RULES,
    Fields,
    Strongest,
    crop_patch,
    find_strongest,
    project_back,
    select_channels,
)

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

PATCH = 104  # the side of a patch on the sheet
CLIP = 98.0  # the percentile of a projection that is the strongest colour


@dataclass(frozen=True, kw_only=True)
class Features:
    """Show the patches with the strongest activations of feature maps, and their projections."""

    layer: str = "last"  # last | below | a path: whose feature maps
    channels: tuple[int, ...] = ()  # of them; empty: the strongest
    maps: int = 6  # how many of the strongest
    images: int = 256  # of the split, evenly chosen, that are searched

    reads_data: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = False

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Show the nine strongest activations of each feature map."""
        strongest = find_strongest(subject, self.layer, self.images)
        channels = select_channels(subject, self.layer, self.channels, self.maps, self.images)
        image = torch.zeros(1, 3, *subject.size, device=subject.device)
        with disable_autocast(image):
            fields = Fields.of(subject.trained.network, image, self.layer)
        shown, refusal = [], ""
        with subject.show_progress("features", len(channels), "maps") as advance:
            for channel in channels:
                feature_map = FeatureMap.of(subject, strongest, fields, channel)
                patches = [crop_patch(pixels, at) for pixels, at in feature_map.pairs()]
                projections: Mapping[str, Projection] = {}
                if not refusal:
                    try:
                        projections = feature_map.project(subject, self.layer)
                    except UserError as error:  # an activation that is no ReLU
                        refusal = str(error)
                shown.append(Shown(feature_map, patches, projections))
                advance(1)
        return self._result(subject, fields, shown, refusal)

    def _result(
        self, subject: ViewSubject, fields: Fields, shown: Sequence[Shown], refusal: str
    ) -> ViewResult:
        size = fields.size
        count = min(self.images, len(subject.data.ids(subject.split)))
        width = fields.features.shape[3]
        numbers = {
            "layer": self.layer,
            "images": count,
            "receptive_field": list(size),
            "maps": [item.feature_map.record(subject, width) for item in shown],
        }
        notes = [f"patches alone; {refusal}"] if refusal else []
        if empty := sum(item.projections[GUIDED].empty for item in shown if item.projections):
            count_all = sum(len(item.feature_map.places) for item in shown)
            notes.append(
                f"{empty} of {count_all} of guided "
                "backprop are empty: no open way back, or an activation at the ceiling of a ReLU6"
            )
        sheet = self._draw(subject, size, count, shown)
        return ViewResult(sheets={"": sheet}, numbers=numbers, notes=notes)

    def _draw(
        self, subject: ViewSubject, size: tuple[int, int], count: int, shown: Sequence[Shown]
    ) -> UInt8[np.ndarray, "H W 3"]:
        height, width = size
        rows = [item.row() for item in shown]
        columns = ["image patches", *RULES][: min(len(row.panels) for row in rows)]
        is_larger = height > subject.size[0] and width > subject.size[1]
        beyond = ": more than the image" if is_larger else ""
        sheet = ContactSheet(
            title=f"{subject.network_name}, layer {self.layer}: what its feature maps look for",
            note=f"strongest of {count} images; receptive field {height} x {width} pixels{beyond}",
            columns=columns,
            rows=[Row(row.name, row.note, row.panels[: len(columns)]) for row in rows],
            width=3 * (PATCH + 3) - 3,
            legend=[],
            max_columns=len(columns),
        )
        return sheet.draw()


@dataclass(frozen=True)
class Projection:
    """The projections of a feature map's activations by a rule, within their receptive fields."""

    patches: Sequence[UInt8[np.ndarray, "h w 3"]]
    empty: int  # projections that are 0 everywhere


@dataclass(frozen=True)
class FeatureMap:
    """The strongest activations of a feature map, strongest first, each of another image."""

    channel: int
    positions: Sequence[int]  # of the images in their split
    places: Sequence[int]  # row * width + column of the map
    values: Sequence[float]
    fields: Sequence[tuple[slice, slice]]  # rows and columns of the receptive fields
    pixels: UInt8[np.ndarray, "n H W 3"]

    @classmethod
    def of(
        cls, subject: ViewSubject, strongest: Strongest, fields: Fields, channel: int
    ) -> FeatureMap:
        """Look up the strongest activations of a feature map, and read their images."""
        positions = strongest.image[channel].tolist()
        places = strongest.place[channel].tolist()
        pixels = np.stack(
            [subject.data.example(subject.split, p, at=subject.size).image for p in positions]
        )
        seen = [fields.at(place) for place in places]
        return cls(channel, positions, places, strongest.value[channel].tolist(), seen, pixels)

    def pairs(self) -> list[tuple[np.ndarray, tuple[slice, slice]]]:
        """Return each image and the receptive field of its activation."""
        return list(zip(self.pixels, self.fields, strict=True))

    def project(self, subject: ViewSubject, layer: str) -> dict[str, Projection]:
        """Project each activation back to its image by each rule, in float32.

        Raises:
            UserError: The network has an activation other than ReLU, or none.
        """
        return {name: self._project(subject, layer, rule) for name, rule in RULES.items()}

    def _project(self, subject: ViewSubject, layer: str, rule: Rule) -> Projection:
        images = subject.trained.tensor(self.pixels)
        places = torch.tensor(self.places, device=images.device)
        with disable_autocast(images):
            back = project_back(subject.trained.network, images, layer, self.channel, places, rule)
        values = back.permute(0, 2, 3, 1).cpu().numpy()
        patches = [
            crop_patch(colour_projection(rows, at), at)
            for rows, at in zip(values, self.fields, strict=True)
        ]
        return Projection(patches, int((back == 0).flatten(1).all(1).sum()))

    def record(self, subject: ViewSubject, width: int) -> dict[str, Any]:
        """Return the numbers of features.json; `width` is that of the feature map."""
        ids = subject.data.ids(subject.split)
        strongest = [
            {
                "image": printable(ids[position]),
                "value": value,
                "row": place // width,
                "column": place % width,
                "box": [at[1].start, at[0].start, at[1].stop, at[0].stop],
            }
            for position, value, place, at in zip(
                self.positions, self.values, self.places, self.fields, strict=True
            )
        ]
        return {"map": self.channel, "strongest": strongest}


@dataclass(frozen=True)
class Shown:
    """A feature map in pictures."""

    feature_map: FeatureMap
    patches: Sequence[UInt8[np.ndarray, "h w 3"]]
    projections: Mapping[str, Projection]  # by the name of the rule

    def row(self) -> Row:
        """Return the row of the sheet: nine patches, and their projections by each rule."""
        values = self.feature_map.values
        several = [self.patches, *(projection.patches for projection in self.projections.values())]
        panels = [draw_mosaic(patches, 3, PATCH) for patches in several]
        note = f"{values[0]:.2f} to {values[-1]:.2f}"
        return Row(f"feature map {self.feature_map.channel}", note, panels)


def colour_projection(
    back: Float32[np.ndarray, "H W 3"], field: tuple[slice, slice]
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a projection in colours, scaled by its values within the field; 0 outside."""
    rows, columns = (slice(max(span.start, 0), span.stop) for span in field)
    picture = np.zeros(back.shape, np.uint8)
    picture[rows, columns] = colours.colour_channels(back[rows, columns], CLIP)
    return picture
