"""Does the map hang on what the network learned? Sanity, by making its weights random.

    cascading     the top layers random, then more and more of them down to the first
    independent   one part random, all others as they were

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3. A map that explains the
network must change; one that does not shows the image's outlines whatever the network knows. How
alike the maps stay: SSIM at the size of the image, rank correlation of the cells with their sign
(`rank`) and of their magnitudes (`rank_abs`), as there; the class explained stays the same one.

What is made random is a copy. A layer gets the weights that torch would begin to train it with
(`reset_parameters`, drawn as torch.manual_seed(seed) would), its normalization what that begins
with; a parameter that no layer resets is drawn from its own mean and deviation. Layers are taken in
the order in which the network names them, the head on top; a network of more than `parts` has
neighbours put together, the head always alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.audit.likeness import enlarged, rank_correlation, ssim

if TYPE_CHECKING:
    from jaxtyping import Float

Explain = Callable[[nn.Module, Tensor], Tensor]
"""From a network and images to their maps [b, h, w], of classes that are settled."""

MODES = ("cascading", "independent")
MEASURES = ("ssim", "rank", "rank_abs")
SEEN = 112  # the longer side of maps kept to look at


@dataclass(frozen=True)
class Part:
    """Neighbouring layers that become random together."""

    name: str
    layers: tuple[str, ...]  # modules that own parameters, in the network's order


def parts(network: nn.Module, most: int) -> list[Part]:
    """From the top down: the head, then at most `most` - 1 parts of about as many layers."""
    # What owns nothing (no branch was trained) is no part.
    own = [
        (name, one) for name, one in network.named_children() if any(True for _ in one.parameters())
    ]
    top = own[-1][0]
    blocks = [
        (name, layers)
        for child, module in own
        if child != top
        for name, layers in _blocks(child, module, _count(network) / max(1, most))
    ]
    groups: list[list[tuple[str, list[str]]]] = []
    share = sum(len(layers) for _, layers in blocks) / max(1, most - 1)
    done = 0
    for name, layers in blocks:
        # A part begins where the middle of its first block passes the next equal share.
        if not groups or done + len(layers) / 2 > share * len(groups):
            groups.append([])
        groups[-1].append((name, layers))
        done += len(layers)
    found = [
        Part(_spanned([name for name, _ in group]), tuple(n for _, some in group for n in some))
        for group in groups
    ]
    head = Part(top, tuple(_layers(network.get_submodule(top), top)))
    return [head, *reversed(found)]


def _blocks(name: str, module: nn.Module, most: float) -> Iterator[tuple[str, list[str]]]:
    """A module, or what it is made of where it has more than `most` layers."""
    layers = list(_layers(module, name))
    inner = list(module.named_children())
    if len(layers) > most and inner:
        if layers[0] == name:  # parameters of its own, a class token
            yield name, [name]
        for child, one in inner:
            yield from _blocks(f"{name}.{child}", one, most)
    elif layers:
        yield name, layers


def _layers(module: nn.Module, name: str) -> Iterator[str]:
    """Modules that own parameters."""
    for inner, one in module.named_modules():
        if any(True for _ in one.parameters(recurse=False)):
            yield f"{name}.{inner}" if inner else name


def _count(network: nn.Module) -> int:
    return sum(1 for _ in _layers(network, ""))


def _spanned(names: Sequence[str]) -> str:
    """The part as a person would say it: features.3-5."""
    first, last = (name.removeprefix("body.") for name in (names[0], names[-1]))
    if first == last:
        return first
    within, _, end = last.rpartition(".")
    return f"{first}-{end if within == first.rpartition('.')[0] else last}"


def make_random(network: nn.Module, part: Part, seed: int) -> None:
    """The layers of a part begin anew; the same seed gives the same weights on any device."""
    with torch.no_grad():
        for name in part.layers:
            generator = torch.Generator().manual_seed(seed)
            _reset(network.get_submodule(name), generator)


def _reset(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
        layer.reset_parameters()
        return
    own = dict(layer.named_parameters(recurse=False))
    usual = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    for name, parameter in own.items():
        drawn = torch.empty(parameter.shape)
        if usual and name == "weight":
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        elif usual and name == "bias":
            fan = own["weight"][0].numel()
            nn.init.uniform_(drawn, -(fan**-0.5), fan**-0.5, generator=generator)
        else:
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            nn.init.normal_(drawn, float(parameter.mean()), spread, generator=generator)
        parameter.copy_(drawn)


def sanity(
    network: nn.Module,
    explain: Explain,
    images: Float[Tensor, "b 3 H W"],
    most: int,
    seed: int,
) -> dict[str, Tensor]:
    """Each measure [b, mode, part]; and maps to look at, [b, mode, 1 + part, h, w]."""
    every = parts(network, most)
    size = images.shape[2:]
    before = explain(network, images)
    large = enlarged(before, size)
    values: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    seen = []
    for mode in MODES:
        changed = copy.deepcopy(network)
        seen.append(_small(large))
        for part in every:
            if mode == "independent":
                changed.load_state_dict(network.state_dict())
            make_random(changed, part, seed)
            after = explain(changed, images)
            larger = enlarged(after, size)
            values["ssim"].append(ssim(large, larger))
            values["rank"].append(rank_correlation(before, after))
            values["rank_abs"].append(rank_correlation(before.abs(), after.abs()))
            seen.append(_small(larger))
    shape = (len(images), len(MODES), len(every))
    found = {name: torch.stack(some, 1).view(shape) for name, some in values.items()}
    pictures = torch.stack(seen, 1)
    found["maps"] = pictures.view(len(images), len(MODES), len(every) + 1, *pictures.shape[2:])
    return found


def _small(maps: Float[Tensor, "b H W"]) -> Float[Tensor, "b h w"]:
    """Shrunk by averaging, so that thin lines stay."""
    shrink = max(1.0, max(maps.shape[1:]) / SEEN)
    size = max(1, round(maps.shape[1] / shrink)), max(1, round(maps.shape[2] / shrink))
    small: Tensor = nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0]
    peak = small.abs().amax((1, 2), keepdim=True)  # float16 holds it then
    return small / peak.clamp(min=torch.finfo(small.dtype).tiny)
