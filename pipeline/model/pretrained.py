"""Tensors of a file fitted to a network: names without prefixes, and the head that came with them.

A head is kept where it is a layer of the network's own kind, whatever the number of its rows. Any
other head is dropped, and a line says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.builder import Builder
from pipeline.model.classes import (
    IMAGENET_CLASSES,
    list_imagenet_classes,
    number_classes,
    read_class_names,
)
from pipeline.model.weights import WeightFile, read_weights
from pipeline.ops.text import list_some

# Parts of prefixes that training scripts put in front of all names.
PREFIXES = ("module", "model", "_orig_mod", "network", "net", "backbone", "classifier", "encoder")
MIN_ROWS = 2  # of a head: the probability of a single class is always 1


@dataclass(frozen=True)
class Target:
    """The network that tensors are fitted to.

    Attributes:
        network: on the meta device.
        name: what messages call it.
        head: the name of the layer with a row for each class.
        dropped_with_head: the prefix of the names that go where the head is dropped.
        ignored: prefixes of names that training alone uses.
    """

    network: nn.Module
    name: str
    head: str
    dropped_with_head: str
    ignored: tuple[str, ...] = ()

    @property
    def top(self) -> str:
        """The prefix of the names of the whole head."""
        return f"{self.head.split('.')[0]}."


@dataclass(frozen=True)
class Fitted:
    """Tensors with the names of a network.

    Attributes:
        tensors: by name.
        rows: the number of classes of the head among them; 0 where there is none that can be kept.
        notes: what was recognised, renamed or dropped, a line each.
    """

    tensors: dict[str, Tensor]
    rows: int
    notes: tuple[str, ...]


def fit_tensors(tensors: Mapping[str, Tensor], target: Target) -> Fitted:
    """Rename tensors as in a network, and drop a head that is no layer of the network's kind.

    Args:
        tensors: by the names of a file.
        target: the network.

    Raises:
        UserError: The file holds the network several times, under different prefixes.
    """
    wanted = target.network.state_dict()
    prefix = find_prefix(tensors, wanted)
    stripped = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    notes = [f"the prefix {prefix!r} of {len(stripped)} names is left out"] if prefix else []
    ignored = [key for key in stripped if key.startswith(target.ignored)]
    kept = {k: v for k, v in stripped.items() if k not in ignored}
    if ignored:
        of = f"of auxiliary classifiers, which only the training of {target.name} uses"
        notes.append(f"{list_some(ignored, 'tensor')} {of}: not used")
    outside_head = _find_head_outside(tensors, prefix, target)
    if outside_head:
        kept = {k: v for k, v in kept.items() if not k.startswith(f"{outside_head}.")}
        kept |= {f"{target.head}.{k.rpartition('.')[2]}": v for k, v in tensors.items()
                 if k.rpartition(".")[0] == outside_head}  # fmt: skip
        rows, inputs = tensors[f"{outside_head}.weight"].shape[:2]
        notes.append(
            f"the layer {outside_head!r} beside {target.name}, {rows} rows of {inputs} inputs, is "
            f"taken for its layer {target.head}"
        )
    others = [key for key in tensors
              if not key.startswith(prefix) and key.rpartition(".")[0] != outside_head]  # fmt: skip
    kept, head_notes = _fit_head(kept, target)
    rows = len(kept[f"{target.head}.weight"]) if f"{target.head}.weight" in kept else 0
    tops = {key.split(".")[0] for key in wanted}
    outside = [key for key in kept if key.split(".")[0] not in tops]
    if not find_missing(kept, target):
        others += outside
        kept = {key: tensor for key, tensor in kept.items() if key not in outside}
    if others:
        notes.append(f"{list_some(others, 'tensor')} outside {target.name} not used")
    return Fitted(kept, rows, (*notes, *head_notes))


def find_missing(tensors: Mapping[str, Tensor], target: Target) -> list[str]:
    """List the tensors of a network's body that are missing or of another shape."""
    return [
        key
        for key, tensor in target.network.state_dict().items()
        if not key.startswith(target.top) and not key.endswith("num_batches_tracked")
        and (key not in tensors or tensors[key].shape != tensor.shape)
    ]  # fmt: skip


def find_prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """Find what stands in front of the names of a network's tensors.

    Args:
        names: of a file's tensors.
        wanted: of the network's tensors.

    Returns:
        The prefix, as `module.`; empty where there is none, or where most names are unknown.

    Raises:
        UserError: Several prefixes fit equally.
    """
    counts = Counter(
        name[:start]
        for name in names
        for start in (0, *(n + 1 for n, letter in enumerate(name) if letter == "."))
        if name[start:] in wanted
    )
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if 2 * most < len(wanted) or "" in best:
        return ""
    usual = [prefix for prefix in best if set(prefix[:-1].split(".")) <= set(PREFIXES)]
    if len(best) > 1 and len(usual) != 1:
        raise UserError(
            f"model.weights: the file holds the network {len(best)} times, under "
            f"{', '.join(sorted(best))}: save the tensors of one of them, without the prefix"
        )
    return (usual if len(best) > 1 else best)[0]


def _find_head_outside(tensors: Mapping[str, Tensor], prefix: str, target: Target) -> str:
    """Return the layer beside a headless network that is its head, as in `self.fc`; else nothing.

    It is the only layer there with a matrix, has the inputs of the network's own head, and no
    normalization of as many channels stands beside it.
    """
    layer = target.network.get_submodule(target.head)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    tops = {f"{prefix}{key.split('.')[0]}" for key in target.network.state_dict()}
    depth = prefix.count(".") + 1
    outside = {key: tensor for key, tensor in tensors.items()
               if ".".join(key.split(".")[:depth]) not in tops}  # fmt: skip
    own = [key for key in target.network.state_dict() if key.startswith(target.top)]
    if set(own) - {f"{target.head}.weight", f"{target.head}.bias"} or any(
        key.startswith(f"{prefix}{target.top}") for key in tensors
    ):
        return ""
    matrices = [key for key, tensor in outside.items() if tensor.ndim > 1]
    if len(matrices) != 1 or not matrices[0].endswith(".weight"):
        return ""
    name, weight = matrices[0].removesuffix(".weight"), outside[matrices[0]]
    inputs = weight.shape[1:]
    beside = [t for key, t in outside.items() if key.rpartition(".")[0] != name]
    fits = inputs == layer.weight.shape[1:] and len(weight) >= MIN_ROWS
    normalized = any(tensor.ndim == 1 and len(tensor) == inputs[0] for tensor in beside)
    return name if fits and not normalized else ""


def _fit_head(tensors: dict[str, Tensor], target: Target) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors with the head under the network's names or without it, and notes."""
    layer, top = target.network.get_submodule(target.head), target.top
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    wanted = {key for key in target.network.state_dict() if key.startswith(top)}
    own = {f"{target.head}.weight", f"{target.head}.bias"}
    there = [key for key in tensors if key.startswith(top)]
    extra = [key for key in there if key not in wanted]
    missing = wanted - own - set(there)
    notes: list[str] = []
    name = _find_only_layer(extra) if not own & set(there) else ""
    if name and not missing:
        notes.append(f"{name} is the layer {target.head} of {target.name}")
        kinds = {f"{name}.weight": f"{target.head}.weight", f"{name}.bias": f"{target.head}.bias"}
        tensors = {kinds.get(key, key): tensor for key, tensor in tensors.items()}
        extra = []
    weight = tensors.get(f"{target.head}.weight")
    is_layer = weight is not None and weight.shape[1:] == layer.weight.shape[1:]
    if weight is not None and is_layer and not extra and not missing and len(weight) >= MIN_ROWS:
        tensors.setdefault(f"{target.head}.bias", torch.zeros(len(weight)))
        return tensors, notes
    if there:
        single = is_layer and not extra and not missing
        why = "has a single row, which tells no classes apart" if single else (
            f"is not that of {target.name}, a layer {target.head} with inputs "
            f"{list(layer.weight.shape[1:])}")  # fmt: skip
        notes = [f"its head ({list_some(there, 'tensor')}) {why}: it is dropped"]
    else:
        notes = [f"it has no head under {top[:-1]}"]
    dropped = target.dropped_with_head
    goes = {k for k in tensors if k.startswith(dropped) or (k.startswith(top) and k not in wanted)}
    return {key: tensor for key, tensor in tensors.items() if key not in goes}, notes


def _find_only_layer(names: Sequence[str]) -> str:
    """Return the name of the layer that these tensors are the weight and bias of; else nothing."""
    layers = {name.rpartition(".")[0] for name in names}
    kinds = {name.rpartition(".")[2] for name in names}
    is_layer = len(layers) == 1 and "weight" in kinds and kinds <= {"weight", "bias"}
    return layers.pop() if is_layer else ""


def complete_with_shapes(fitted: Fitted, target: Target) -> dict[str, Tensor]:
    """Return the tensors, and for those of a dropped head the network's own, without values."""
    if fitted.rows or find_missing(fitted.tensors, target):
        return fitted.tensors
    own = {key: value for key, value in target.network.state_dict().items()
           if key.startswith(target.dropped_with_head)}  # fmt: skip
    return {**fitted.tensors, **own}


@dataclass(frozen=True)
class Head:
    """What a file says about its head.

    Attributes:
        classes: the names of its rows; empty where no head can be kept.
        notes: about the tensors and the head, a line each.
    """

    classes: tuple[str, ...]
    notes: tuple[str, ...]


def name_rows(file: WeightFile, rows: int, given: str | Sequence[str] | None) -> Head:
    """Name the rows of a head.

    Args:
        file: the file of the head.
        rows: the number of the head's rows; 0: it has no head that can be kept.
        given: `model.classes`.

    Raises:
        UserError: `given` names another number of classes, or there is no head.
    """
    if given is not None:
        names = read_class_names(given)
        if len(names) != rows:
            has = f"a head of {rows} classes" if rows else "no head that can be kept"
            raise UserError(
                f"model.classes: {len(names)} names, but the file of model.weights= has {has}; "
                "give a name for each row of the head, in its order, or leave model.classes= away"
            )
        return Head(names, ("model.classes names the rows of its head",))
    if not rows:
        return Head((), ())
    notes: tuple[str, ...] = ()
    if file.classes and len(file.classes) == rows:
        return Head(file.classes, (f"a head of {rows} classes, which the file names",))
    if file.classes:
        notes = (f"it names {len(file.classes)} classes for a head of {rows}: not used",)
    if rows == IMAGENET_CLASSES:
        return Head(list_imagenet_classes(), notes)
    unnamed = (f"a head of {rows} classes without names, which model.classes=[...] or "
               "model.classes=FILE gives in the order of its rows")  # fmt: skip
    return Head(number_classes(rows), (*notes, unnamed))


class Weighted(Builder):
    """A builder whose `weights` are imagenet (its library's download), a file, or null."""

    has_own_head = True
    name: str
    classes: str | tuple[str, ...] | None = None

    @property
    def weight_file(self) -> Path | None:
        """The file that `weights` names; None where it names none."""
        return None if self.weights in (None, "imagenet") else Path(str(self.weights)).expanduser()

    def check_weights(self) -> None:
        """Raise UserError where `weights` names a file that is not there."""
        if self.weight_file is not None and not self.weight_file.is_file():
            raise UserError(
                f"model.weights={self.weights}: no such file; choices: imagenet (the library's "
                "own, downloaded once), a file of weights (.pth, .safetensors), or null"
            )
        if self.classes is not None and self.weight_file is None:
            raise UserError(
                f"model.classes names the rows of the head of a file; model.weights={self.weights} "
                "is none: give model.weights=FILE, or leave model.classes= away"
            )

    @property
    def given_classes(self) -> tuple[str, ...]:
        """The names that `classes` gives the rows of the head of the file; empty: none."""
        return () if self.classes is None else read_class_names(self.classes)

    def notes(self) -> list[str]:
        """Return what was recognised, renamed or dropped of the file of weights, a line each."""
        file = self.weight_file
        return [f"{file.name}: {note}" for note in self.describe_file().notes] if file else []

    def target(self) -> Target:
        """Return the network that the tensors of a file are fitted to."""
        raise NotImplementedError

    def rename_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors of older versions of the library.

        Args:
            tensors: by name.
        """
        return dict(tensors)

    def fit(self, tensors: Mapping[str, Tensor]) -> Fitted:
        """Rename tensors as in the network; see `fit_tensors`.

        Args:
            tensors: by the names of a file.
        """
        return fit_tensors(self.rename_tensors(tensors), self.target())

    def describe_file(self) -> Head:
        """Return the names of the classes of the file's head, and notes; empty without a file.

        Raises:
            UserError: The file cannot be read, or model.classes does not fit its head.
        """
        if self.weight_file is None:
            return Head((), ())
        content = self.weight_file.stat()
        return _describe_file(self, content.st_mtime_ns, content.st_size)

    def load_file(self) -> Fitted:
        """Read the tensors of the file, and fit them to the network."""
        assert self.weight_file is not None
        return self.fit(read_weights(self.weight_file).tensors)


@lru_cache(maxsize=8)
def _describe_file(builder: Weighted, changed: int, size: int) -> Head:
    """Read a file once for each time of its last change."""
    assert builder.weight_file is not None
    file = read_weights(builder.weight_file)
    fitted = builder.fit(file.tensors)
    head = name_rows(file, fitted.rows, builder.classes)
    lies = (f"the weights are those under {file.wrapping!r}",) if file.wrapping else ()
    return Head(head.classes, (*lies, *fitted.notes, *head.notes))
