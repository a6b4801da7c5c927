"""The inputs and results of the tests of maps (audit) and of the views of a network (inspect)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.types.records import ClassSelector, Explanation, Size, Split

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int, UInt8
    from PIL import Image
    from torch import Tensor

    from pipeline.protocols import DataSet, Network, TrainedNetwork


@dataclass(frozen=True)
class AuditNumber:
    """A number that a test of maps computes for each image, as the table of stage audit shows it.

    Attributes:
        name: in audit.json, and of the array of its values.
        title: of its row.
        good: which values are good; "" where neither is: how similar two maps are.
    """

    name: str
    title: str
    good: Literal["low", "high", ""]


PartValues = tuple[AuditNumber, str, "Float[np.ndarray, 'n']"]
"""A number for a part of a network: the number, the name of the part, a value for each image."""


@dataclass(frozen=True, kw_only=True)
class AuditSubject:
    """A saliency method on a trained network, whose maps are tested.

    Args:
        trained: The network, with its input size, mean and std.
        network_name: The network's name in titles.
        method: The method's name in titles.
        seed: The seed of the run.
        unit: What each number is of, in titles: images, or pairs of an image and one of its
            classes.
    """

    trained: TrainedNetwork
    network_name: str
    method: str
    seed: int
    unit: str = "images"


@dataclass(frozen=True, kw_only=True)
class AuditBatch:
    """A batch of images for a test of maps, and the functions that explain them.

    Args:
        positions: The position of each image in its split.
        pixels: The images, RGB, at the size of the network's input.
        sizes: Height and width of each original image.
        images: The same images as the network reads them.
        classes: The class that is explained in each image.
        seeds: A random seed for each image, so that no result depends on how images are batched.
        shown: How many of these images, from the first on, are kept for the test's picture.
        maps_of: From a network and images [b, 3, H, W] to the maps [b, h, w] of `classes`, computed
            in float32, at the method's resolution.
        logits_of: From a network and images to the logits as float32, without gradients: of all
            classes [b, C], or with `is_independent` of `classes` alone [b, 1].
        best_boxes: From maps [b, h, w] to the best box of each, float32 [b, 4] xyxy in pixels of
            the original image; all zeros where there is none.
        is_independent: Whether classes do not exclude each other, so that the logit of a class
            tells alone whether it is there.
    """

    positions: Sequence[int]
    pixels: UInt8[np.ndarray, "b H W 3"]
    sizes: Sequence[Size]
    images: Float[Tensor, "b 3 H W"]
    classes: Int[Tensor, "b"]
    seeds: Sequence[int]
    shown: int
    maps_of: Callable[[Network, Tensor], Tensor]
    logits_of: Callable[[Network, Tensor], Tensor]
    best_boxes: Callable[[Tensor], np.ndarray]
    is_independent: bool = False

    @property
    def columns(self) -> Int[Tensor, "b"]:
        """The column of each image's class in what `logits_of` gives."""
        return self.classes * 0 if self.is_independent else self.classes

    def select_logits(self, logits: Float[Tensor, "b C"]) -> Tensor:
        """Return the logits that decide about `classes`: all, or of each image that of its class.

        Args:
            logits: Of a network for these images.
        """
        return logits.gather(1, self.classes[:, None]) if self.is_independent else logits


@dataclass(frozen=True, kw_only=True)
class ViewSubject:
    """A trained network for a view of stage inspect, with the data and functions it may use.

    Args:
        trained: The network, with its classes, mean and std.
        network_name: The network's name in titles.
        device: The device of the network.
        size: Height and width that images are scaled to for the network.
        seed: The seed of the run.
        data: The images and their labels. A view that does not read them declares that.
        split: The split that images are taken from.
        method: The saliency method's name in titles.
        explain: From images [b, 3, H, W] and a selector of classes to maps of the run's saliency
            method, computed in the run's precision. A view that calls it declares that.
        batch_size: How many images are computed together.
        map_batches: From the title of a progress bar, positions of images in the split and a
            function to the arrays that the function returns of each batch, in order. The function
            is given the positions of a batch and its images as the network reads them; several
            threads may call it. Images that cannot be read are left out.
        show_progress: From the title of a progress bar, a count and a unit to a context that gives
            a function to advance by.
        compute_once: From a key and a function to what the function returns; computed once for all
            views that ask with the same key.
        skipped: Filled with the images that cannot be read: why, by position in the split.
    """

    trained: TrainedNetwork
    network_name: str
    device: torch.device
    size: Size
    seed: int
    data: DataSet
    split: Split
    method: str
    explain: Callable[[Tensor, ClassSelector], Explanation]
    batch_size: int
    map_batches: Callable[
        [str, Sequence[int], Callable[[Sequence[int], Tensor], dict[str, np.ndarray]]],
        Iterator[Mapping[str, np.ndarray]],
    ]
    show_progress: Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
    compute_once: Callable[[Hashable, Callable[[], Any]], Any]
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ViewResult:
    """The pictures and numbers of a view, which stage inspect writes.

    Args:
        sheets: Pictures by the suffix of their file name: "" is `<view>.png`, "rise" is
            `<view>_rise.png`. Arrays are uint8 RGB.
        numbers: The content of `<view>.json`; None: there is no such file.
        pictures: Single pictures by name: `<view>/<name>.png`.
        notes: What could not be shown, a line each.
    """

    sheets: Mapping[str, Image.Image | UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    numbers: Mapping[str, Any] | None = None
    pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    notes: Sequence[str] = ()
