"""Sanity: does the map depend on what the network learned? Its weights are made random.

    cascading     the top layers are random, then more and more layers down to the first
    independent   a single part is random, all others are as trained

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3. A map that explains the
network must change; a map that does not change shows the image's edges whatever the network knows.
The similarity of the maps is measured as in the paper: SSIM at the size of the image, rank
correlation of the cells with their sign (`rank`) and of their magnitudes (`rank_abs`). The class
explained stays the same.

A copy is made random. A layer gets torch's initial weights (`reset_parameters`, drawn as
torch.manual_seed(seed) would), a normalization layer its initial state; any other parameter is
drawn from a normal distribution of its mean and standard deviation. Layers are taken in the order
in which the network names them, the head on top; in a network of more layers than `layers`,
neighbouring layers form a part, the head always alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.audit.likeness import enlarge, rank_correlation, ssim
from pipeline.audit.pictures import (
    EDGE,
    WIDTH,
    Arrays,
    colour_map,
    mean_line,
    resize,
    write_heading,
)
from pipeline.ops.precision import disable_autocast
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import BLUE, RED, Axes, Line, Sheet, draw_chart
from pipeline.plotting.sheet import FAINT, shorten_to_width
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

Explain = Callable[[Any, Tensor], Tensor]
"""From a network and images to their maps [b, h, w], of fixed classes."""

MODES = ("cascading", "independent")
MEASURES = ("ssim", "rank", "rank_abs")
PICTURE_SIDE = 112  # the longer side of maps that are kept for the picture
LABEL = 104  # pixels on the left of a row of maps, for its name


@dataclass(frozen=True)
class Sanity:
    """Test whether the map depends on what the network learned."""

    layers: int = 8  # parts of the network that are made random, the head one of them

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("head_ssim", "head random: SSIM", "low"),
        AuditNumber("head_rank", "head random: rank correlation", "low"),
        AuditNumber("cascading_ssim", "cascading, mean: SSIM", "low"),
        AuditNumber("cascading_rank", "cascading, mean: rank correlation", "low"),
        AuditNumber("independent_ssim", "independent, mean: SSIM", "low"),
        AuditNumber("independent_rank", "independent, mean: rank correlation", "low"),
    )
    is_costly: ClassVar[bool] = True
    picture_arrays: ClassVar[tuple[str, ...]] = ("seen_image", "seen_maps")

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network's weights can be made random."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Compare the maps of each image with those of partly random networks, in float32."""
        network = cast(nn.Module, subject.trained.network)
        with disable_autocast(batch.images):
            measured = measure_sanity(
                network, batch.maps_of, batch.images, self.layers, subject.seed
            )
        maps = measured.pop("maps")[: batch.shown]
        arrays = {name: to_numpy(values) for name, values in measured.items()}
        for measure in ("ssim", "rank"):
            arrays[f"head_{measure}"] = arrays[measure][:, 0, 0]
            for n, mode in enumerate(MODES):
                arrays[f"{mode}_{measure}"] = arrays[measure][:, n].mean(1)
        arrays["seen_image"] = batch.pixels[: batch.shown]
        arrays["seen_maps"] = to_numpy(maps).astype(np.float16)
        return arrays

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return each measure of each part that was made random, in both modes."""
        names = self._part_names(subject)
        return [
            (AuditNumber(f"{mode}_{measure}", "", "low"), part, arrays[measure][:, m, n])
            for m, mode in enumerate(MODES)
            for measure in MEASURES
            for n, part in enumerate(names)
        ]

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw how similar the maps stay from part to part, and the maps of an image."""
        names = self._part_names(subject)
        image = arrays["seen_image"][0]
        side = (WIDTH - 2 * EDGE - LABEL - 8 * (len(names) + 1)) // (len(names) + 2)
        height = round(side * image.shape[0] / image.shape[1])
        sheet = Sheet(WIDTH, 720 + 2 * (height + 12) + 20)
        write_heading(
            sheet, subject, "does the map hang on what was learned?",
            f"{len(arrays['ssim'])} {subject.unit}; "
            f"layers made random from the head down. A map that "
            "explains the network must change: low is good. Means with 95 % bootstrap bands",
        )  # fmt: skip
        _draw_curves(sheet, arrays, names, subject.seed)
        _draw_maps(sheet, arrays, names, (side, height))
        return sheet.to_image()

    def _part_names(self, subject: AuditSubject) -> list[str]:
        network = cast(nn.Module, subject.trained.network)
        return [part.name for part in split_into_parts(network, self.layers)]


@dataclass(frozen=True)
class Part:
    """Neighbouring layers that become random together."""

    name: str
    layers: tuple[str, ...]  # modules that own parameters, in the network's order


def split_into_parts(network: nn.Module, most: int) -> list[Part]:
    """Divide a network, from the top down, into the head and parts of about equally many layers.

    Args:
        network: The network, whose last child with parameters is the head. Of a module that only
            wraps another, that of the inner module.
        most: Parts at most, the head included.
    """
    root, children = _list_children(network, "")
    *below_head, (top, _) = children
    most_layers = _count_layers(network) / max(1, most)
    blocks = [
        (name, layers)
        for child, module in below_head
        for name, layers in _iterate_blocks(child, module, most_layers)
    ]
    if root and any(True for _ in network.get_submodule(root).parameters(recurse=False)):
        blocks.insert(0, (root, [root]))  # parameters of the inner module itself: a class token
    groups: list[list[tuple[str, list[str]]]] = []
    share = sum(len(layers) for _, layers in blocks) / max(1, most - 1)
    done = 0
    for name, layers in blocks:
        # A part begins where the middle of its first block passes the next equal share.
        if not groups or done + len(layers) / 2 > share * len(groups):
            groups.append([])
        groups[-1].append((name, layers))
        done += len(layers)
    below = [
        Part(_name_part([name for name, _ in group]), tuple(n for _, names in group for n in names))
        for group in groups
    ]
    head = Part(_name_part([top]), tuple(_iterate_layers(network.get_submodule(top), top)))
    return [head, *reversed(below)]


def _list_children(module: nn.Module, path: str) -> tuple[str, list[tuple[str, nn.Module]]]:
    """Return the children with parameters of a module, or of the one module that it wraps.

    A child without parameters, as the branches where none was trained, is no part.

    Returns:
        The path of the module whose children they are, and the children with their paths.
    """
    children = [
        (f"{path}.{name}".lstrip("."), child)
        for name, child in module.named_children()
        if any(True for _ in child.parameters())
    ]
    if len(children) == 1 and not any(True for _ in module.parameters(recurse=False)):
        ((inner, wrapped),) = children
        root, within = _list_children(wrapped, inner)
        if len(within) > 1:
            return root, within
    return path, children


def _iterate_blocks(name: str, module: nn.Module, most: float) -> Iterator[tuple[str, list[str]]]:
    """Yield a module, or its children if it has more than `most` layers, with the layers."""
    layers = list(_iterate_layers(module, name))
    inner = list(module.named_children())
    if len(layers) > most and inner:
        if layers[0] == name:  # parameters of the module itself, as a class token
            yield name, [name]
        for child, part in inner:
            yield from _iterate_blocks(f"{name}.{child}", part, most)
    elif layers:
        yield name, layers


def _iterate_layers(module: nn.Module, name: str) -> Iterator[str]:
    """Yield the names of modules that have parameters."""
    for inner, layer in module.named_modules():
        if any(True for _ in layer.parameters(recurse=False)):
            yield f"{name}.{inner}" if inner else name


def _count_layers(network: nn.Module) -> int:
    return sum(1 for _ in _iterate_layers(network, ""))


def _name_part(names: Sequence[str]) -> str:
    """Return the name of a part, as features.3-5."""
    first, last = (name.removeprefix("body.") for name in (names[0], names[-1]))
    if first == last:
        return first
    within, _, end = last.rpartition(".")
    return f"{first}-{end if within == first.rpartition('.')[0] else last}"


def randomize(network: nn.Module, part: Part, seed: int) -> None:
    """Draw the weights of a part anew; the same seed gives the same weights on any device."""
    with torch.no_grad():
        for name in part.layers:
            generator = torch.Generator().manual_seed(seed)
            _reset(network.get_submodule(name), generator)


def _reset(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw the parameters of a layer, without those of its children."""
    if isinstance(layer, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
        layer.reset_parameters()
        return
    parameters = dict(layer.named_parameters(recurse=False))
    is_standard = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    for name, parameter in parameters.items():
        drawn = torch.empty(parameter.shape)
        if is_standard and name == "weight":
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        elif is_standard and name == "bias":
            fan = parameters["weight"][0].numel()
            nn.init.uniform_(drawn, -(fan**-0.5), fan**-0.5, generator=generator)
        else:
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            nn.init.normal_(drawn, float(parameter.mean()), spread, generator=generator)
        parameter.copy_(drawn)


def measure_sanity(
    network: nn.Module,
    explain: Explain,
    images: Float[Tensor, "b 3 H W"],
    most: int,
    seed: int,
) -> dict[str, Tensor]:
    """Compare the maps of a network with those of copies whose weights are partly random.

    Args:
        network: The trained network, which stays as it is.
        explain: From a network and images to maps.
        images: As the network reads them.
        most: Parts that the network is divided into, at most.
        seed: Of the random weights.

    Returns:
        Each of MEASURES [b, mode, part]; `maps` for the picture [b, mode, 1 + part, h, w].
    """
    all_parts = split_into_parts(network, most)
    size = images.shape[2:]
    before = explain(network, images)
    large = enlarge(before, size)
    values: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    seen = []
    for mode in MODES:
        changed = copy.deepcopy(network)
        seen.append(_shrink(large))
        for part in all_parts:
            if mode == "independent":
                changed.load_state_dict(network.state_dict())
            randomize(changed, part, seed)
            after = explain(changed, images)
            larger = enlarge(after, size)
            values["ssim"].append(ssim(large, larger))
            values["rank"].append(rank_correlation(before, after))
            values["rank_abs"].append(rank_correlation(before.abs(), after.abs()))
            seen.append(_shrink(larger))
    shape = (len(images), len(MODES), len(all_parts))
    measured = {name: torch.stack(rows, 1).view(shape) for name, rows in values.items()}
    pictures = torch.stack(seen, 1)
    measured["maps"] = pictures.view(*shape[:2], len(all_parts) + 1, *pictures.shape[2:])
    return measured


def _shrink(maps: Float[Tensor, "b H W"]) -> Float[Tensor, "b h w"]:
    """Shrink maps by averaging, which keeps thin lines, and scale them to the range of float16."""
    shrink = max(1.0, max(maps.shape[1:]) / PICTURE_SIDE)
    size = max(1, round(maps.shape[1] / shrink)), max(1, round(maps.shape[2] / shrink))
    small: Tensor = nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0]
    peak = small.abs().amax((1, 2), keepdim=True)
    return small / peak.clamp(min=torch.finfo(small.dtype).tiny)


# -- pictures ------------------------------------------------------------------------------------


def _draw_curves(sheet: Sheet, arrays: Arrays, names: Sequence[str], seed: int) -> None:
    """Draw SSIM on the left, rank correlation on the right, over the parts made random."""
    ticks = [(0.0, "none")] + [(float(k + 1), _break_name(name)) for k, name in enumerate(names)]
    boxes = ((100, 162, 740, 500), (880, 162, 1520, 500))
    for box, measure, title in zip(
        boxes, ("ssim", "rank"), ("SSIM", "Rank correlation (Spearman)"), strict=True
    ):
        lines = _build_lines(arrays[measure], seed)
        lowest = min(float(line.band[0].min()) for line in lines if line.band)
        low = 0.0 if lowest >= -0.02 else -0.5 if lowest > -0.5 else -1.0
        axes = Axes(
            box=box,
            title=title,
            x_label="part made random",
            y_label="likeness to the map before",
            ticks=ticks,
            low=low,
        )
        draw_chart(sheet, axes, lines)


def _build_lines(values: Float[np.ndarray, "n mode part"], seed: int) -> list[Line]:
    """Return the curve of each mode, which begins at 1: the trained network's map."""
    count, _, parts_count = values.shape
    return [
        mean_line(
            name, np.arange(parts_count + 1),
            np.concatenate([np.ones((count, 1)), values[:, m]], 1), colour, seed,
            dots=True, dashed=m == 1,
        )
        for m, (name, colour) in enumerate((
            ("cascading: this part and all above it", RED),
            ("independent: this part alone", BLUE),
        ))
    ]  # fmt: skip


def _draw_maps(sheet: Sheet, arrays: Arrays, names: Sequence[str], panel: tuple[int, int]) -> None:
    """Draw the first image and its maps, a row for each mode; `panel` is width and height."""
    width, height = panel
    image, maps = arrays["seen_image"][0], arrays["seen_maps"][0].astype(np.float32)
    y = 690
    for k, name in enumerate(["image", "trained", *names]):
        x = EDGE + LABEL + k * (width + 8)
        sheet.write_text(
            x, y, shorten_to_width(name.replace("features.", "f."), 15, width), 15, FAINT
        )
    y += 24
    for row, mode in zip(maps, MODES, strict=True):
        sheet.write_text(EDGE, y + height / 2, mode, 16, FAINT, "lm")
        sheet.paste(EDGE + LABEL, y, resize(image, width, height))
        for k, values in enumerate(row):
            x = EDGE + LABEL + (k + 1) * (width + 8)
            sheet.paste(x, y, resize(colour_map(values), width, height))
        y += height + 12


def _break_name(name: str) -> str:
    """Split a long name into two lines."""
    short = name.replace("features.", "f.")
    return short if len(short) < 10 else short.replace("-", "-\n", 1)
