"""View `dream`: photographs changed so that a layer responds more to them (DeepDream).

    argmax_I  1/2 mean A(I)^2        from the photograph, in octaves

Mordvintsev, Olah and Tyka 2015; pipeline/visualize/deep_dream.py. The mean is over the whole layer,
or over each of `inspect.channels` alone where they are given. A photograph keeps its aspect ratio,
its longer side is `inspect.side`: the network must take images of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.formats.files import image_file_stem
from pipeline.ops.maps import scale_size
from pipeline.ops.precision import disable_autocast
from pipeline.ops.text import printable
from pipeline.plotting import grids
from pipeline.plotting.grids import (
    Cell,
    draw_grid,
    fit_longer_side,
    pad_to_common_size,
    resize_picture,
)
from pipeline.protocols import TrainedNetwork
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize import deep_dream
from pipeline.visualize.ascent_view import pixel_bounds
from pipeline.visualize.feature_maps import check_channels
from pipeline.visualize.photos import read_examples

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

PANEL = 320


@dataclass(frozen=True, kw_only=True)
class Dream:
    """Change photographs so that a layer responds more to them (DeepDream)."""

    layer: str = "last"  # last | below | a path: whose feature maps
    channels: tuple[int, ...] = ()  # of them, each alone; empty: the whole layer
    few: int = 4  # photographs
    side: int = 512  # the longer side of a photograph, in pixels
    octaves: int = 5  # each 1.4 times as large as the one before
    dream_steps: int = 20  # of each octave
    dream_rate: float = 0.06  # of the first step, in standard deviations of pixels

    reads_data: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = False

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Make the dreams of a few photographs, in float32."""
        dream = deep_dream.Dream(self.octaves, steps=self.dream_steps, rate=self.dream_rate)
        given = check_channels(subject, self.layer, self.channels)
        channels: Sequence[int | None] = given or [None]
        photos = self._read_photos(subject)
        dreamt = []
        with subject.show_progress("dream", len(photos) * len(channels), "images") as advance:
            for position, pixels in photos:
                photo = subject.trained.tensor(pixels[None])
                _check_size(subject, dream, photo)
                for channel in channels:
                    result = self._dream(subject, dream, photo, channel)
                    picture = _to_pixels(subject.trained, result.image)
                    dreamt.append(Dreamt(position, channel, pixels, picture, result))
                    advance(1)
        return self._result(subject, dream, dreamt, len(channels))

    def _read_photos(self, subject: ViewSubject) -> list[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Read a few images, resized to a longer side of `side` pixels."""
        return [
            (position, resize_picture(example.image, *scale_size(example.image.shape, self.side)))
            for position, example in read_examples(subject, self.few, None)
        ]

    def _dream(
        self,
        subject: ViewSubject,
        dream: deep_dream.Dream,
        photo: Float[Tensor, "1 3 H W"],
        channel: int | None,
    ) -> deep_dream.DreamResult:
        channels = [] if channel is None else [channel]
        score_function = deep_dream.build_layer_score(subject.trained.network, self.layer, channels)
        with disable_autocast(photo):
            return dream(score_function, photo, subject.seed, pixel_bounds(subject))

    def _result(
        self,
        subject: ViewSubject,
        dream: deep_dream.Dream,
        dreamt: Sequence[Dreamt],
        dreams_per_photo: int,
    ) -> ViewResult:
        """Return the sheets and numbers; the dreams of a photograph follow each other."""
        ids = subject.data.ids(subject.split)
        octaves = max((len(item.result.sizes) for item in dreamt), default=0)
        formula = (
            f"half the mean square of its activations; {octaves} octaves of {dream.steps} steps "
            "(Mordvintsev et al. 2015); numbers: of the last octave"
        )
        title = f"{subject.network_name}, layer {self.layer}: a dream"
        cells, curves = [], {}
        for n, item in enumerate(dreamt):
            name, what = printable(ids[item.position]), item.describe(self.layer)
            if n % dreams_per_photo == 0:
                cells.append(Cell(fit_longer_side(item.photo, PANEL), name))
            cells.append(item.cell(what))
            curves[name if item.channel is None else f"{name}, {what}"] = item.curve()
        # A row has a photograph and its dreams, or two photographs with a dream each.
        columns = 4 if dreams_per_photo == 1 else 1 + dreams_per_photo
        pictures = pad_to_common_size([cell.picture for cell in cells])
        cells = [
            replace(cell, picture=picture) for cell, picture in zip(cells, pictures, strict=True)
        ]
        return ViewResult(
            sheets={
                "": draw_grid(title, [formula], cells, columns),
                "rise": grids.draw_ascent_curves(title, formula, "half the mean square", curves),
            },
            numbers={
                "layer": self.layer,
                "dream": asdict(dream),
                "images": [item.record(ids) for item in dreamt],
            },
            pictures={item.file_name(ids): item.picture for item in dreamt},
        )


@dataclass(frozen=True)
class Dreamt:
    """A photograph, and the dream of a layer or of a single feature map."""

    position: int
    channel: int | None
    photo: UInt8[np.ndarray, "h w 3"]
    picture: UInt8[np.ndarray, "h w 3"]
    result: deep_dream.DreamResult

    def describe(self, layer: str) -> str:
        """Return the name of the layer or feature map."""
        return f"layer {layer}" if self.channel is None else f"feature map {self.channel}"

    def file_name(self, ids: Sequence[str]) -> str:
        """Return the file name of the picture, without a suffix."""
        name = f"{self.position + 1:06d}-{image_file_stem(ids[self.position])}"
        return name if self.channel is None else f"{name}-{self.channel}"

    def cell(self, what: str) -> Cell:
        """Return the picture with the scores of the last octave as its caption."""
        last = self.result.scores[-1]
        return Cell(
            fit_longer_side(self.picture, PANEL),
            what,
            f"{float(last[0]):.3g} to {float(last[-1]):.3g}",
        )

    def curve(self) -> Float[np.ndarray, "n"]:
        """Return the score before each step of all octaves, and after the last."""
        before = [score for scores in self.result.scores for score in scores[:-1].tolist()]
        return np.array([*before, float(self.result.scores[-1][-1])])

    def record(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the numbers of dream.json."""
        return {
            "image": printable(ids[self.position]),
            "map": self.channel,
            "sizes": [list(size) for size in self.result.sizes],
            "score": [scores.tolist() for scores in self.result.scores],
        }


def _check_size(
    subject: ViewSubject, dream: deep_dream.Dream, photo: Float[Tensor, "1 3 H W"]
) -> None:
    """Raise UserError where the network cannot read an octave."""
    size = dream.list_sizes((photo.shape[2], photo.shape[3]))[0]
    try:
        with torch.no_grad(), disable_autocast(photo):
            subject.trained.network(deep_dream.resize_image(photo, size))
    except (AssertionError, RuntimeError) as error:  # of networks that take a single size
        raise UserError(
            f"inspect.views: dream: {subject.network_name} cannot read an image of "
            f"{size[0]} x {size[1]}, which an octave is ({str(error).strip().splitlines()[0]}); "
            "a network of convolutions and pooling can; leave dream away"
        ) from error


def _to_pixels(
    trained: TrainedNetwork, image: Float[Tensor, "1 3 H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a network's input as pixels."""
    values = image[0].permute(1, 2, 0).float().cpu().numpy() * trained.std + trained.mean
    return np.asarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
