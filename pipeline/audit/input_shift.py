"""Input invariance: does a shift of the input that leaves the logits alone alter the map?

    f_2(x + m) = f_1(x)        b_2 = b_1 - W m

Kindermans et al., "The (Un)reliability of Saliency Methods", 2017, section 2. A constant is added
to every pixel and subtracted in the bias of the first layer: both networks have the same logits and
the same gradients, so the maps must be the same. Those of the gradient and of the CAM family are;
those of methods that multiply by the image, or replace pixels by a fixed colour, are not.

The first layer is a convolution: in the copy it gets a bias where it has none, as before batch
normalization. Zero padding would break the identity along the border, because zero is another
colour after the shift: the copy's convolution pads with the shifted zero. A fixed affine step
before the convolution (GoogLeNet's) is measured at the convolution's input. The logits are
compared, too: `answer` is the largest difference of the logits over their largest magnitude.

    moved    sum |M' - M| / sum |M|: 0 for the same map, 1 and more for a different one
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.audit.likeness import enlarge, rank_correlation, ssim
from pipeline.audit.pictures import (
    EDGE,
    WIDTH,
    Arrays,
    colour_map,
    format_mean,
    resize,
    write_heading,
)
from pipeline.errors import UserError
from pipeline.ops.precision import disable_autocast
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import Sheet
from pipeline.plotting.sheet import FAINT
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from PIL import Image

Explain = Callable[[Any, Tensor], Tensor]
"""From a network and images to their maps [b, h, w], of fixed classes."""

SIDE, GAP = 276, 14  # of the panels, in pixels
ROWS = 4  # images on the picture at most


@dataclass(frozen=True)
class InputShift:
    """Test whether a shift of the input that leaves the logits alone alters the map."""

    shift: float = -1.0  # added to the pixels, which are from 0 to 1

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("shift_moved", "input shift: the map moves by", "low"),
        AuditNumber("shift_rank", "input shift: rank correlation", "high"),
    )
    is_costly: ClassVar[bool] = False
    picture_arrays: ClassVar[tuple[str, ...]] = ("seen", "seen_image", "seen_before", "seen_after")

    def refusal(self, subject: AuditSubject) -> str:
        """Return why the first layer cannot compensate a shift; empty where it can."""
        network = cast(nn.Module, subject.trained.network)
        device = next(network.parameters()).device
        channels = len(subject.trained.mean)
        image = torch.zeros(1, channels, *subject.trained.size, device=device)
        try:
            build_shifted_network(network, image, self._scaled_shift(subject, device))
        except UserError as error:
            return str(error)
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Compare the maps of each image before and after the shift, in float32."""
        network = cast(nn.Module, subject.trained.network)
        shift = self._scaled_shift(subject, batch.images.device)
        with disable_autocast(batch.images):
            measured = measure_input_shift(
                network, batch.maps_of, batch.logits_of, batch.images, shift
            )
        before, after = (
            to_numpy(measured.pop(name)[: batch.shown]) for name in ("before", "after")
        )
        return {
            **{f"shift_{name}": to_numpy(values) for name, values in measured.items()},
            "seen": np.array(batch.positions[: batch.shown], np.int32),
            "seen_image": batch.pixels[: batch.shown],
            "seen_before": before,
            "seen_after": after,
        }

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw a few images, their maps before and after, and what changed."""
        rows = min(ROWS, len(arrays["seen_image"]))
        sheet = Sheet(WIDTH, 150 + rows * (SIDE + GAP) + 20)
        moved = format_mean("The map moves by", arrays["shift_moved"], subject.seed)
        write_heading(
            sheet,
            subject,
            "does a shift that the network does not see move the map?",
            f"{len(arrays['shift_moved'])} {subject.unit}; "
            f"{self.shift:+g} added to pixels from 0 to 1, "
            f"taken away in the first bias. {moved} of itself; rank correlation "
            f"{arrays['shift_rank'].mean():.3f}; answers differ by "
            f"{arrays['shift_answer'].max():.0e}",
        )
        titles = ("image", f"shifted by {self.shift:+g}, made visible", "map before", "map after",
                  "difference, same scale")  # fmt: skip
        for k, title in enumerate(titles):
            sheet.write_text(EDGE + k * (SIDE + GAP), 118, title, 17, FAINT)
        for row in range(rows):
            image = arrays["seen_image"][row]
            before, after = arrays["seen_before"][row], arrays["seen_after"][row]
            panels = [image, self._show_shifted(image), colour_map(before), colour_map(after),
                      colour_map(after - before, before)]  # fmt: skip
            for k, panel in enumerate(panels):
                where = EDGE + k * (SIDE + GAP), 146 + row * (SIDE + GAP)
                sheet.paste(*where, resize(panel, SIDE, SIDE))
        return sheet.to_image()

    def _scaled_shift(self, subject: AuditSubject, device: torch.device) -> Float[Tensor, "3"]:
        """Return the shift of each channel on the network's scale."""
        return self.shift / torch.tensor(subject.trained.std, device=device)

    def _show_shifted(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Show a shifted image, its lowest value as black: negative pixels cannot be shown."""
        moved = image.astype(np.float32) + 255 * self.shift
        return np.asarray(((moved - moved.min()) * 0.55).clip(0, 255).astype(np.uint8))


class ShiftCompensation(nn.Module):
    """A convolution whose bias subtracts what was added to its input.

    Args:
        conv: The original convolution.
        shift: What was added to each channel of its input.

    Raises:
        UserError: The convolution has groups, or pads with other values than zeros.
    """

    def __init__(self, conv: nn.Conv2d, shift: Float[Tensor, "3"]) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or conv.groups != 1:
            raise UserError(
                f"the first layer is {conv}: only a convolution of all channels, padded with "
                "zeros, can take a shift away"
            )
        self.conv = conv
        subtracted = (conv.weight * shift[:, None, None]).sum((1, 2, 3))
        self.bias = nn.Parameter(
            (torch.zeros_like(subtracted) if conv.bias is None else conv.bias) - subtracted, False
        )
        self.register_buffer("shift", shift[:, None, None])
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Compute the original convolution of the images before the shift."""
        conv = self.conv
        margins = _margins(conv)
        if any(margins):
            inside = F.pad(torch.ones_like(images[:1, :1]), margins)
            images = F.pad(images, margins) + (1 - inside) * self.shift
        return F.conv2d(images, conv.weight, self.bias, conv.stride, 0, conv.dilation)


def _margins(conv: nn.Conv2d) -> list[int]:
    """Return the padding of a convolution: left, right, above, below."""
    if conv.padding == "valid":
        return [0, 0, 0, 0]
    if conv.padding == "same":
        return [int(side) for side in conv._reversed_padding_repeated_twice]
    down, across = cast(tuple[int, int], conv.padding)
    return [across, across, down, down]


def build_shifted_network(
    network: nn.Module, images: Float[Tensor, "b 3 H W"], shift: Float[Tensor, "3"]
) -> nn.Module:
    """Return the copy f_2, whose first layer subtracts a shift of the images.

    Args:
        network: The network f_1, which stays as it is.
        images: Some images, of which the first is used to find the first layer.
        shift: A constant for each channel, on the network's scale.

    Raises:
        UserError: The first layer is not a convolution that can subtract a shift.
    """
    changed = copy.deepcopy(network)
    image = images[:1]
    name, before = _find_first_layer(changed, image)
    _, after = _find_first_layer(changed, image + shift[:, None, None])
    added = after - before
    of_channels = added.mean((0, 2, 3))
    if not torch.allclose(added, of_channels[:, None, None].expand_as(added), atol=1e-4):
        raise UserError(f"what reaches the first convolution, {name}, is not the image or affine")
    parent, _, child = name.rpartition(".")
    conv = cast(nn.Conv2d, changed.get_submodule(name))
    setattr(changed.get_submodule(parent), child, ShiftCompensation(conv, of_channels))
    return changed


def _find_first_layer(network: nn.Module, images: Float[Tensor, "1 3 H W"]) -> tuple[str, Tensor]:
    """Return the name of the first layer that has parameters, and what it reads."""
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: seen.append((name, inputs[0].detach()))

    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and not next(iter(module.children()), None)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    name, read = seen[0]
    if not isinstance(network.get_submodule(name), nn.Conv2d):
        raise UserError(f"the first layer, {name}, is no convolution: input shift needs one")
    return name, read


def measure_input_shift(
    network: nn.Module,
    explain: Explain,
    logits: Callable[[Any, Tensor], Tensor],
    images: Float[Tensor, "b 3 H W"],
    shift: Float[Tensor, "3"],
) -> dict[str, Tensor]:
    """Compare maps and logits before and after a shift.

    Args:
        network: The network, which stays as it is.
        explain: From a network and images to maps.
        logits: From a network and images to logits.
        images: As the network reads them.
        shift: A constant for each channel, on the network's scale.

    Returns:
        `moved`, `rank`, `ssim`, `answer` [b]; the maps `before` and `after` [b, h, w].

    Raises:
        UserError: The first layer is not a convolution that can subtract a shift.
    """
    other = build_shifted_network(network, images, shift)
    added = images + shift[:, None, None]
    before, after = explain(network, images), explain(other, added)
    first, second = logits(network, images), logits(other, added)
    total = before.abs().sum((1, 2))
    tiny = torch.finfo(total.dtype).tiny
    return {
        "moved": (after - before).abs().sum((1, 2)) / total.clamp(min=tiny),
        "rank": rank_correlation(before, after),
        "ssim": ssim(*(enlarge(maps, images.shape[2:]) for maps in (before, after))),
        "answer": (second - first).abs().amax(1) / first.abs().amax(1).clamp(min=tiny),
        "before": before,
        "after": after,
    }
