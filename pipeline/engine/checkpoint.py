"""A trained classifier on disk: `weights.safetensors`, and `card.json` that a person can read.

The card says how to build the network again, its classes, its input and how it was trained. Nothing
in either file can run code: tensors are safetensors, and a card may only name models of this
project.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from pipeline.engine.choices import choice_name, instantiate, may_be_named
from pipeline.engine.latest import find_newest_run
from pipeline.engine.named_functions import hash_function, names_function
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, read_json, write_json
from pipeline.ops.hashing import hash_file, hash_of
from pipeline.ops.intensity import IntensityRanges
from pipeline.ops.text import to_nfc
from pipeline.protocols import NetworkBuilder, RebuildableBranch, WrappingObjective
from pipeline.types import Size, Supervision

if TYPE_CHECKING:
    import torch
    from jaxtyping import UInt8
    from torch import nn

    from pipeline.model.classifier import Classifier
    from pipeline.ops.probabilities import Answers

WEIGHTS, CARD = "weights.safetensors", "card.json"
FORMAT = 1
INTENSITY = "intensity"  # the card's field on images of more than 8 bits, absent where all have 8
ANSWERS = "answers"  # the card's field on what logits mean, absent where classes are exclusive
# The fields that save() derives from the network; they are not copied from another card.
DERIVED_FIELDS = (
    "format", "model", "head", "channels", "classes", "branches", "fingerprint", ANSWERS,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, the size and normalization of its input, and its card.

    Attributes:
        network: in eval mode, channels_last, its weights frozen.
        size: height and width of its input.
        mean: of red, green and blue, for pixels from 0 to 1.
        std: of red, green and blue, for pixels from 0 to 1.
        card: the content of card.json.
    """

    network: Classifier
    size: Size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    card: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.network.classes

    @property
    def intensity(self) -> IntensityRanges:
        """The ranges that the training images of more than 8 bits were scaled from."""
        record = self.card.get(INTENSITY, {})
        ranges = {kind: (low, high) for kind, (low, high) in record.get("range", {}).items()}
        return IntensityRanges(ranges, tuple(record.get("no_data", ())))

    def tensor(self, images: UInt8[np.ndarray, "b H W 3"]) -> torch.Tensor:
        """Normalize images of the same size to [b, 3, H, W], on the network's device."""
        return to_tensor(images, self.mean, self.std, network_device(self.network))


def network_device(network: Classifier) -> torch.device:
    """Return the device of a network's weights."""
    return next(network.parameters()).device


def to_tensor(
    images: UInt8[np.ndarray, "b H W 3"],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> torch.Tensor:
    """Compute (image / 255 - mean) / std as float32 [b, 3, H, W] on a device.

    The memory layout is that of the images, which torch calls channels_last.
    """
    import torch

    pixels = torch.from_numpy(images).to(device, non_blocking=True)
    width = pixels.shape[2]
    # By rows of an image: torch would else loop over three channels at a time.
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).repeat(width)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    rows = torch.addcmul(shift.repeat(width), pixels.flatten(2), scale)
    return rows.view(pixels.shape).permute(0, 3, 1, 2)


def describe(
    given: Path, folder: Path, methods: Sequence[str], segmenter: Mapping[str, Any]
) -> str:
    """Return a line that names a checkpoint and what is done with it.

    Its path is resolved: `outputs/latest` soon links to another run.

    Args:
        given: the path that names it.
        folder: of its files.
        methods: that compute maps with it.
        segmenter: the completed node of the segmenter.
    """
    card = read_card(folder)
    model = network_name(folder)
    path = given.resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    threshold = f", boxes segmented at {segmenter['threshold']}" if "threshold" in segmenter else ""
    return (
        f"{'checkpoint':<10} {shown}: {model}, {len(card['classes'])} classes; "
        f"maps of {', '.join(methods)}{threshold}"
    )


def save(
    folder: Path, network: Classifier, model: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write the weights and the card of a network.

    Args:
        folder: where the two files are written, each atomically.
        network: the network.
        model: the completed node of the configuration that builds it.
        card: `size`, `mean` and `std` of the input, and what else a person should know.

    Raises:
        UserError: a field of the card is missing or wrong.
    """
    from safetensors.torch import save_file

    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in seen:  # tied weights, which a file of safetensors has twice
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(state, str(temporary))
    # The weights are in the file beside the card, the names of classes in the card itself.
    rebuilt = {key: None if key in ("weights", "classes") else model[key] for key in model}
    content = {
        "format": FORMAT,
        "model": rebuilt,
        "head": network.head_kind,
        "channels": network.channels,
        "classes": list(network.classes),
        # Branches that an objective's wrap() adds have no node: wrap() adds them again.
        "branches": {
            name: branch.node
            for name, branch in network.branches.items()
            if isinstance(branch, RebuildableBranch)
        },
        "fingerprint": hash_file(folder / WEIGHTS),
        **({} if network.answers == "exclusive" else {ANSWERS: network.answers}),
        **card,
    }
    _check_card(folder / CARD, content)
    write_json(folder / CARD, content, indent=1, ascii=False)


def find(given: Path, outputs: Path | None = None) -> Path:
    """Return the folder of the checkpoint that a path names.

    Args:
        given: the folder, a file in it, or the folder of a run; of a run with stage refine, the
            refined network counts.
        outputs: the folder of outputs of this run, whose newest network an error names; None: that
            beside `given` alone.

    Raises:
        UserError: there is no checkpoint.
    """
    folder = given.parent if given.name in (WEIGHTS, CARD) else given
    stages = [folder / "stages" / "refine", folder / "stages" / "train", folder / "train"]
    for place in (folder, *stages):
        if (place / CARD).is_file():
            return place
    raise UserError(f"checkpoint={given}: {_describe_missing(given, outputs)}")


def _describe_missing(given: Path, outputs: Path | None) -> str:
    """Say what a path is that holds no checkpoint, and which run has one."""
    what = f"expected the folder of a run that has a network, or a folder with {WEIGHTS} and {CARD}"
    files = (f"stages/refine/{CARD}", f"stages/train/{CARD}")
    newest, of = find_newest_run(given, files), ""
    if newest is None and outputs is not None:
        newest, of = find_newest_run(outputs, files), f" of outputs={outputs}"
    remedy = (
        "no run there has one yet; +experiment=cam trains one"
        if newest is None
        else f"the newest run{of} that has one: checkpoint={newest}"
    )
    if not given.exists():
        return f"no checkpoint there, and no such folder; {what}; {remedy}"
    if (given / "config.yaml").is_file():
        return f"this run has no network, as it neither trained nor loaded one; {remedy}"
    return f"no checkpoint there; {what}; {remedy}"


def fingerprint(folder: Path) -> str:
    """Return a hash of what a checkpoint computes: its weights, network, classes and input."""
    card = read_card(folder)
    names = ("fingerprint", "model", "head", "classes", "size", "mean", "std")
    parts = [card[name] for name in names]
    if card.get("branches"):
        parts.append(card["branches"])
    if _build_wrapping_objective(folder / CARD, card) is not None:
        target = str(card["objective"]["_target_"])
        parts += [card["objective"], hash_sources([target.rpartition(".")[0]])]
    if names_function(card["model"]):
        parts.append(hash_function(card["model"]))
    if (answers := card.get(ANSWERS, "exclusive")) != "exclusive":
        parts.append(answers)
    return hash_of(parts)


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of a checkpoint.

    Raises:
        UserError: it is missing, no JSON, of another format, or one of its fields is wrong.
    """
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
def _card_model() -> Any:
    """Return the pydantic model of a card; pydantic is imported when it is first used."""
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        FiniteFloat,
        PositiveFloat,
        PositiveInt,
        field_validator,
    )

    class Intensity(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid")

        range: dict[Literal["integer", "float"], list[FiniteFloat]]
        no_data: list[FiniteFloat] = []

        @field_validator("range")
        @classmethod
        def check_order(cls, ranges: dict[str, list[float]]) -> dict[str, list[float]]:
            if not all(len(pair) == 2 and pair[0] < pair[1] for pair in ranges.values()):
                raise ValueError("expected [low,high], low below high")
            return ranges

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
        intensity: Intensity | None = None
        negatives: list[str] = []
        supervision: Supervision = "image labels"
        answers: Literal["exclusive", "independent"] = "exclusive"

    return Card


def _check_card(path: Path, card: Any) -> dict[str, Any]:
    from pydantic import ValidationError

    if isinstance(card, dict) and card.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: format {card['format']}, this version reads {FORMAT}")
    try:
        _card_model().model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise UserError(f"{path}: {where}: {first['msg']}, got {first['input']!r:.80}") from None
    return {**card, "classes": list(map(to_nfc, card["classes"]))}


def network_name(folder: Path) -> str:
    """Return the name of the network of a checkpoint, or of its module where it has none.

    Args:
        folder: of its files.
    """
    model = read_card(folder)["model"]
    name = model.get("name") or (model["of"] if names_function(model) else None)
    return str(name or choice_name("model", str(model["_target_"])))


def read_supervision(folder: Path) -> Supervision:
    """Return what the network of a checkpoint learned from.

    Args:
        folder: of its files.
    """
    return cast(Supervision, read_card(folder).get("supervision", "image labels"))


def read_answers(folder: Path) -> Answers:
    """Return what the logits of a checkpoint mean: exclusive classes, or each for itself.

    Args:
        folder: of its files.
    """
    return cast("Answers", read_card(folder).get(ANSWERS, "exclusive"))


def load(
    folder: Path, device: torch.device, make: Callable[[], nn.Module] | None = None
) -> Checkpoint:
    """Load the network of a checkpoint, in eval mode, channels_last, its weights frozen.

    Args:
        folder: of its files.
        device: where the network is.
        make: makes the module of a network of `model=module`; None: the function that the user's
            command names, where the card names the same.

    Raises:
        UserError: a file is missing or incomplete, the two do not belong together, or the card
            names a class from outside this project, or a function that the user did not name.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    from pipeline.model.classifier import load_strictly
    from pipeline.model.weights import check_finite

    card = read_card(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: missing; the card beside it describes it")
    content = path.read_bytes()
    try:
        state = parse(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a whole file of safetensors ({error})") from error
    check_finite(state, str(path))
    builder = _build_builder(folder / CARD, card["model"], make)
    with torch.device("meta"):  # drawing random weights would only cost time
        network = _build_whole(folder / CARD, builder, card)
    load_strictly(network, state, str(path), f"the network of {CARD}")
    if any(buffer.is_meta for buffer in network.buffers()):  # that no file has, as Swin's indices
        network = _build_whole(folder / CARD, builder, card)
        load_strictly(network, state, str(path), f"the network of {CARD}")
    if hashlib.sha256(content).hexdigest()[:16] != card["fingerprint"]:
        raise UserError(f"{path}: not the weights that {CARD} was written with; train again")
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    network.answers = read_answers(folder)
    return Checkpoint(
        network.requires_grad_(False),
        (card["size"][0], card["size"][1]),
        tuple(card["mean"]),
        tuple(card["std"]),
        card,
    )


def _build_whole(path: Path, builder: NetworkBuilder, card: Mapping[str, Any]) -> Classifier:
    """Build the network of a card with all that its objective and its branches add."""
    network = _build_network(path, builder, card)
    objective = _build_wrapping_objective(path, card)
    if objective is not None:
        network = cast("Classifier", objective.wrap(network))
    for name, node in card.get("branches", {}).items():
        network.branches[name] = instantiate(
            f"{path}: branches.{name}", node, within="pipeline.model."
        )
    return network


def _build_network(path: Path, builder: NetworkBuilder, card: Mapping[str, Any]) -> Classifier:
    from pipeline.model.classifier import HEADS, OWN, Classifier

    count = len(card["classes"])
    if card["head"] == OWN:
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


def _build_wrapping_objective(path: Path, card: Mapping[str, Any]) -> WrappingObjective | None:
    """Build the objective that the network was trained with, if it changes the network."""
    if "objective" not in card:
        return None
    objective = instantiate(f"{path}: objective", card["objective"], within="pipeline.objective.")
    return objective if isinstance(objective, WrappingObjective) else None


def _build_builder(
    path: Path, model: Mapping[str, Any], make: Callable[[], nn.Module] | None
) -> NetworkBuilder:
    """Build what the card's `model` names; refuse what is not a network builder of this project.

    A function that the card names is called only where the user names it, or gives `make`.
    """
    target = str(model.get("_target_"))
    module, _, name = target.rpartition(".")
    kind = None
    if may_be_named("model", target):
        try:
            kind = getattr(importlib.import_module(module), name, None)
        except ImportError:
            kind = None
    # Classes that the module imports are refused, too.
    is_builder = inspect.isclass(kind) and kind.__module__ == module and hasattr(kind, "body")
    if not is_builder:
        raise UserError(
            f"{path}: model._target_={target}: refused; a card may only name a model of "
            "pipeline.model, so that opening a checkpoint never runs what it brings along"
        )
    builder = instantiate(f"{path}: model", model)
    if names_function(model):
        builder = builder if make is None else builder.made_by(make)
        builder.check_allowed(str(path))
    elif make is not None:
        raise UserError(
            f"{path.parent}: model=: its network is one of this project ({target}); leave it away"
        )
    return cast(NetworkBuilder, builder)
