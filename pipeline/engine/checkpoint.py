"""A trained classifier on disk: `weights.safetensors`, and `card.json` that a person can read.

The card says how to build the network again, its classes, its input and how it was made. Nothing
in either file can run code: tensors are safetensors, and a card may only name this project's own
models.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.choices import instantiate, may_be_named
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, read_json, write_json
from pipeline.ops.hashing import hash_file, hash_of
from pipeline.protocols import WrappingObjective
from pipeline.types import Size

if TYPE_CHECKING:
    import torch
    from jaxtyping import UInt8

    from pipeline.model.classifier import Classifier

WEIGHTS, CARD = "weights.safetensors", "card.json"
FORMAT = 1
# What save() finds out itself, and no card of another checkpoint hands on.
DERIVED_FIELDS = ("format", "model", "head", "channels", "classes", "branches", "fingerprint")


@dataclass(frozen=True)
class Checkpoint:
    """Weights, how to build the network again, class names, input size, mean and std."""

    network: Classifier
    size: Size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    card: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.network.classes

    def tensor(self, images: UInt8[np.ndarray, "b H W 3"]) -> torch.Tensor:
        """Images of one size as the network takes them: [b, 3, H, W], on its device."""
        return to_tensor(images, self.mean, self.std, network_device(self.network))


def network_device(network: Classifier) -> torch.device:
    return next(network.parameters()).device


def to_tensor(
    images: UInt8[np.ndarray, "b H W 3"],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> torch.Tensor:
    """(image / 255 - mean) / std as float32 [b, 3, H, W] in channels_last, the layout it has."""
    import torch

    pixels = torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2)
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return torch.addcmul(shift[:, None, None], pixels, scale)


def save(
    folder: Path, network: Classifier, model: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write weights and card. `model` is the configuration's node, completed; `card` adds `size`,
    `mean`, `std` and whatever a person should know."""
    from safetensors.torch import save_file

    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(state, str(temporary))
    rebuilt = {**model, "weights": None} if "weights" in model else dict(model)
    whole = {
        "format": FORMAT,
        "model": rebuilt,
        "head": network.head_kind,
        "channels": network.channels,
        "classes": list(network.classes),
        # Those that an objective's wrap() makes know of no node.
        "branches": {n: b.node for n, b in network.branches.items() if hasattr(b, "node")},
        "fingerprint": hash_file(folder / WEIGHTS),
        **card,
    }
    _check_card(folder / CARD, whole)
    write_json(folder / CARD, whole, indent=1)


def find(given: Path) -> Path:
    """The checkpoint that a path names: its folder, a file in it, or a run that trained it, as
    stage refine left it where there was one."""
    folder = given.parent if given.name in (WEIGHTS, CARD) else given
    stages = [folder / "stages" / "refine", folder / "stages" / "train", folder / "train"]
    for place in (folder, *stages):
        if (place / CARD).is_file():
            return place
    raise UserError(
        f"checkpoint={given}: no checkpoint there; expected a run such as outputs/latest, or a "
        f"folder with {WEIGHTS} and {CARD}"
    )


def fingerprint(folder: Path) -> str:
    """Stands for what a checkpoint computes: its weights, network, classes and input."""
    card = read_card(folder)
    names = ("fingerprint", "model", "head", "classes", "size", "mean", "std")
    parts = [card[name] for name in names]
    if card.get("branches"):
        parts.append(card["branches"])
    if _wrapping(folder / CARD, card) is not None:
        target = str(card["objective"]["_target_"])
        parts += [card["objective"], hash_sources([target.rpartition(".")[0]])]
    return hash_of(parts)


def read_card(folder: Path) -> dict[str, Any]:
    """The card, its fields checked. Raises UserError where it is not one."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(
            f"{folder}: no checkpoint here; expected {WEIGHTS} and {CARD}, as stage train writes "
            "them"
        )
    try:
        card = read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a checkpoint's card, no JSON ({error})") from None
    return _check_card(path, card)


@cache
def _fields() -> Any:
    from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, PositiveInt

    class Card(BaseModel):
        model_config = ConfigDict(strict=True, extra="allow")

        format: int
        model: dict[str, Any]
        head: str
        channels: PositiveInt | None
        classes: list[str] = Field(min_length=1)
        size: list[PositiveInt] = Field(min_length=2, max_length=2)
        mean: list[FiniteFloat] = Field(min_length=3, max_length=3)
        std: list[PositiveFloat] = Field(min_length=3, max_length=3)
        fingerprint: str
        branches: dict[str, dict[str, Any]] = {}

    return Card


def _check_card(path: Path, card: Any) -> dict[str, Any]:
    from pydantic import ValidationError

    if isinstance(card, dict) and card.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: format {card['format']}, this version reads {FORMAT}")
    try:
        _fields().model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise UserError(f"{path}: {where}: {first['msg']}, got {first['input']!r:.80}") from None
    return dict(card)


def load(folder: Path, device: torch.device) -> Checkpoint:
    """The network of a checkpoint, in eval mode, channels_last, weights frozen.

    Raises UserError where the files are not whole, not each other's, or name foreign code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    from pipeline.model.classifier import load_strictly

    card = read_card(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: missing; the card beside it describes it")
    content = path.read_bytes()
    try:
        state = parse(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a whole file of safetensors ({error})") from error
    builder = _builder(folder / CARD, card["model"])
    with torch.device("meta"):  # random weights would only cost time
        network = _network(folder / CARD, builder, card)
        objective = _wrapping(folder / CARD, card)
        if objective is not None:
            network = objective.wrap(network)
        for name, node in card.get("branches", {}).items():
            network.branches[name] = instantiate(
                f"{folder / CARD}: branches.{name}", node, within="pipeline.model."
            )
    load_strictly(network, state, str(path), f"the network of {CARD}")
    if hashlib.sha256(content).hexdigest()[:16] != card["fingerprint"]:
        raise UserError(f"{path}: not the weights that {CARD} was written with; train again")
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Checkpoint(
        network.requires_grad_(False),
        (card["size"][0], card["size"][1]),
        tuple(card["mean"]),
        tuple(card["std"]),
        card,
    )


def _network(path: Path, builder: Any, card: Mapping[str, Any]) -> Classifier:
    from pipeline.model.classifier import HEADS, OWN, Classifier

    count = len(card["classes"])
    if card["head"] == OWN and hasattr(builder, "own"):
        body, head = builder.own(count)
    else:
        body, channels = builder.body()
        if card["head"] not in HEADS or channels != card["channels"]:
            raise UserError(
                f"{path}: head {card['head']!r} on {card['channels']} channels does not fit "
                f"{card['model']}"
            )
        head = HEADS[card["head"]](channels, count)
    return Classifier(body, head, card["classes"], builder.last, builder.below)


def _wrapping(path: Path, card: Mapping[str, Any]) -> WrappingObjective | None:
    """The objective that the network was trained by, where that changed the network."""
    if "objective" not in card:
        return None
    objective = instantiate(f"{path}: objective", card["objective"], within="pipeline.objective.")
    return objective if isinstance(objective, WrappingObjective) else None


def _builder(path: Path, model: Mapping[str, Any]) -> Any:
    """What the card's `model` names: a class of this project that builds a body, nothing else."""
    target = str(model.get("_target_"))
    module, _, name = target.rpartition(".")
    kind = None
    if may_be_named("model", target):
        try:
            kind = getattr(importlib.import_module(module), name, None)
        except ImportError:
            kind = None
    own = inspect.isclass(kind) and kind.__module__ == module and hasattr(kind, "body")
    if not own:
        raise UserError(
            f"{path}: model._target_={target}: refused; a card may only name a model of "
            "pipeline.model, so that opening a checkpoint never runs what it brings along"
        )
    return instantiate(f"{path}: model", model)
