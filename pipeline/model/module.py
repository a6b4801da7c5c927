"""A network of anybody's by the name of what makes it: `model=module model.of=mymodule:build`.

The function or class is called, and its module is used as it is: `last`, `below` and the head are
found by running it once (pipeline/model/discovery.py), and the answer's logits are read as
`pipeline.explain` reads them. Nothing is called but what the user's own command names: a name that
only a file has, as the card of a checkpoint, is refused (`allow`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.answers import (
    PROBE_SIDES,
    make_probe,
    make_reader,
    read_own_names,
    unwrap,
)
from pipeline.model.builder import Builder
from pipeline.model.classes import (
    IMAGENET_CLASSES,
    list_imagenet_classes,
    number_classes,
    read_class_names,
)
from pipeline.model.classifier import load_strictly
from pipeline.model.discovery import Layers, find_layers
from pipeline.model.forms import Form, default_form
from pipeline.model.importing import identify, import_function, is_allowed
from pipeline.model.module_parts import (
    ModuleGapHead,
    ModuleHead,
    end_body_at,
    read_colour_as_grey,
    reads_grey,
)
from pipeline.model.preprocessing import Preprocessing, read_preprocessing
from pipeline.model.pretrained import find_prefix
from pipeline.model.weights import read_weights
from pipeline.model.wrapped import Wrapped

if TYPE_CHECKING:
    pass

BUILT = "built"  # the value of `weights` for those that the module is made with
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Known:
    """What a run of a module tells.

    Attributes:
        layers: where its feature maps and its class weights are.
        channels: of the last feature maps.
        form: of layers whose shape does not tell.
        logits: how many it gives.
        names: that the module itself has for them, or numbers.
        preprocessing: how images are prepared, where the module says.
        content: hash of its weights.
        notes: on the file of its weights, a line each.
        classes: that the file names.
    """

    layers: Layers
    channels: int
    form: Form | None
    logits: int
    names: tuple[str, ...]
    preprocessing: Preprocessing | None
    content: str
    notes: tuple[str, ...]
    classes: tuple[str, ...]


class Module(Builder):
    """Builder of a network that a function or class of the user's makes.

    Args:
        of: what makes it: `package.module:function`, or `path/to/file.py:function`. It is called
            without arguments, or with `arguments`, and gives a torch.nn.Module.
        weights: built (those that it is made with), a file, or null: random, to be trained.
        last: the layer of the last feature maps, by its path in named_modules(); null: it is found.
        below: the layer that the last block reads; null: it is found.
        arguments: of the function.
        classes: names of the logits in their order; or a file of these names, a line each; null:
            those of the file of weights or of the module, else ImageNet's for 1000 logits.
        mean: of red, green and blue, for pixels from 0 to 1, or one number for all, as of a network
            of grey images, which then reads the luma; null: the module's own.
        std: likewise.
        size: height and width of the images, or one side; null: the module's own, else data.size.
        output: where the logits are in what the module gives, a key or an index; null: `.logits`,
            or the first tensor.
        multi_label: whether an image may have several of the classes: the probability of each is
            the sigmoid of its logit, and not the softmax of all.

    Raises:
        UserError: The name has another form, or the file of weights is not there.
    """

    has_own_head = True
    own_head_from_scratch = True

    def __init__(
        self,
        of: str | None = None,
        weights: str | None = BUILT,
        last: str | None = None,
        below: str | None = None,
        arguments: dict[str, Any] | None = None,
        classes: str | tuple[str, ...] | None = None,
        mean: float | tuple[float, ...] | None = None,
        std: float | tuple[float, ...] | None = None,
        size: int | tuple[int, int] | None = None,
        output: str | int | None = None,
        multi_label: bool = False,
    ) -> None:
        self.of, self.weights = of or "", weights
        self.arguments, self.output, self.is_multi_label = arguments, output, multi_label
        self._last, self._below, self.classes = last, below, classes
        self._mean, self._std = _for_colours(mean, "mean"), _for_colours(std, "std")
        self._size = (size, size) if isinstance(size, int) else size
        self._make: Make | None = None
        self._known: Known | None = None
        if of is not None and ":" not in of:
            raise UserError(
                f"model.of={of}: expected what makes the network, as "
                "model.of=mypackage.mymodule:build or model.of=path/to/file.py:build"
            )
        if self.weight_file is not None and not self.weight_file.is_file():
            raise UserError(
                f"model.weights={weights}: no such file; choices: {BUILT} (those that model.of "
                "makes), a file of weights (.pth, .safetensors), or null to train from scratch"
            )

    # -- what the user named

    @property
    def weight_file(self) -> Path | None:
        """The file that `weights` names; None where it names none."""
        return None if self.weights in (None, BUILT) else Path(str(self.weights)).expanduser()

    def made_by(self, make: Make) -> Module:
        """Return the builder of the same network, which the caller makes.

        Args:
            make: gives the module; it is copied.
        """
        other = copy.copy(self)
        other._make, other._known = make, None
        return other

    def check_allowed(self, where: str) -> None:
        """Check that the user's own command names what makes the network.

        Args:
            where: the file that names it.

        Raises:
            UserError: it does not, or nothing is named at all.
        """
        if not self.of and self._make is None:
            raise UserError(
                "model.of is missing: give model.of=mypackage.mymodule:build, or a file's, "
                "model.of=path/to/file.py:build"
            )
        if self._make is None and not is_allowed(self.of, self.arguments):
            given = "".join(f" {word}" for word in self._describe_arguments())
            raise UserError(
                f"{where}: model.of={self.of}: refused; a file may not say what is called. If this "
                f"function is yours, give model=module model.of={self.of}{given}; from Python, "
                "pipeline.load(RUN, model=...) takes the module or the function"
            )

    def _describe_arguments(self) -> list[str]:
        if not self.arguments:
            return []
        pairs = ",".join(f"{key}:{value}" for key, value in self.arguments.items())
        return [f"'model.arguments={{{pairs}}}'"]

    # -- the network

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of red, green and blue, from 0 to 1."""
        return self._mean or _for_colours(self._prepared("mean").mean, "mean") or ()

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of red, green and blue, from 0 to 1."""
        return self._std or _for_colours(self._prepared("std").std, "std") or ()

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images that the network reads; None where nobody says."""
        if self._size is not None:
            return self._size
        prepared = self._know().preprocessing
        return None if prepared is None else prepared.size

    @property
    def last(self) -> str:
        """The layer of the last feature maps."""
        return self._last if self._last is not None else self._know().layers.last

    @property
    def below(self) -> str:
        """The layer that the last block reads; empty where none was recognised."""
        return self._below if self._below is not None else self._know().layers.below

    @property
    def known(self) -> tuple[str, ...]:
        """The names of the logits."""
        if not self.pretrained:
            return ()
        known = self._know()
        if self.classes is not None:
            names = read_class_names(self.classes)
            if len(names) != known.logits:
                raise UserError(
                    f"model.classes: {len(names)} names, but {self.of} gives {known.logits} "
                    "logits; give a name for each, in their order"
                )
            return names
        if len(known.classes) == known.logits:
            return known.classes
        if known.logits == IMAGENET_CLASSES and known.names == number_classes(known.logits):
            return list_imagenet_classes()
        return known.names

    @property
    def content(self) -> str:
        """Hash of the weights that the module is made with."""
        return self._know().content

    def recorded(self) -> dict[str, Any]:
        """Return the layers that were found, by which a checkpoint builds the network again."""
        return {"last": self.last, "below": self.below}

    def notes(self) -> list[str]:
        """Return what was renamed or dropped of the file of weights, a line each."""
        file = self.weight_file
        return [f"{file.name}: {note}" for note in self._know().notes] if file else []

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return the module, and the head that reads its logits, for so many classes.

        Raises:
            UserError: It gives fewer logits.
        """
        known = self._know()
        if known.logits < classes:
            raise UserError(
                f"model.of={self.of}: gives {known.logits} logits, for {classes} classes; "
                "model.arguments={...} may give it another number, or train.head=new a new head"
            )
        module = self._new_module()
        return module, self._read_head(module, classes)

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes the last feature maps, and their channels.

        Raises:
            UserError: No layer gives feature maps.
        """
        return self.features(self._new_module()), self._know().channels

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the module with its weights, the head that reads its logits, and its classes."""
        module = self._new_module()
        self._load_weights(module)
        return module, self._read_head(module, self._know().logits), self.known

    def features(self, body: nn.Module) -> nn.Module:
        """Let a module return its last feature maps, and not its logits.

        Args:
            body: as `load` returns it; it is changed.

        Raises:
            UserError: No layer gives feature maps.
        """
        known = self._know()
        if known.layers.problem is not None:
            raise UserError(f"model.of={self.of}: {_name_layer(known.layers.problem)}")
        with torch.device("cpu"):
            probe = self._make_probe(body, known.preprocessing)
        return end_body_at(body, self.last, known.form, probe)

    def _make_probe(self, module: nn.Module, prepared: Preprocessing | None) -> Tensor:
        """Return two images of noise, of the size that is given or that the module says."""
        probe = make_probe(module, prepared)
        if self._size is not None and prepared is None:
            return torch.randn(2, probe.shape[1], *self._size)
        return probe

    def _read_head(self, module: nn.Module, classes: int) -> ModuleHead:
        gap, read = self._know().layers.head, make_reader(self.output)
        if gap is None:
            return ModuleHead(read, classes)
        return ModuleGapHead(read, classes, module, gap)

    def _prepared(self, option: str) -> Preprocessing:
        prepared = self._know().preprocessing
        if prepared is None or len(prepared.mean) not in (1, 3):
            raise UserError(
                f"model.{option}: {self.of} does not say how its images are normalized; give "
                "model.mean=[0.485,0.456,0.406] model.std=[0.229,0.224,0.225] with its own "
                "numbers, or model.mean=0.5 model.std=0.5 of a network of grey images"
            )
        return prepared

    def _new_module(self) -> nn.Module:
        """Make the module, on the meta device where only shapes are computed."""
        module = self._call()
        is_shape = torch.empty(0).is_meta  # within torch.device("meta")
        return module.to("meta") if is_shape else module

    def _call(self) -> nn.Module:
        """Call what makes the module; without weights, it has other random ones for each seed."""
        self.check_allowed("model")
        make = self._make or partial(import_function(self.of), **(self.arguments or {}))
        with torch.device("cpu"):
            if self.pretrained:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    made = _make_module(make, self.of)
            else:
                made = _make_module(make, self.of)
        module = unwrap(made)
        if self._make is not None or module in _GIVEN:  # a module that somebody keeps
            module = copy.deepcopy(module)
        _GIVEN.add(module)
        module = module.cpu().float().eval()
        sizes = [self._size] if self._size is not None else [(n, n) for n in PROBE_SIDES]
        if reads_grey(module, sizes):
            module = copy.deepcopy(module)
            read_colour_as_grey(module)
        return module

    def _load_weights(self, module: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Load the file of weights, if one is named; return notes, and the classes it names."""
        if self.weight_file is None:
            return (), ()
        file = read_weights(self.weight_file)
        wanted = module.state_dict()
        prefix = find_prefix(file.tensors, wanted)
        state = {k.removeprefix(prefix): v for k, v in file.tensors.items() if k.startswith(prefix)}
        load_strictly(module, state, f"model.weights={self.weights}", self.of)
        notes = [f"the weights are those under {file.wrapping!r}"] if file.wrapping else []
        if prefix:
            notes.append(f"the prefix {prefix!r} of {len(state)} names is left out")
        if others := len(file.tensors) - len(state):
            notes.append(f"{others} tensors outside {prefix!r} not used")
        return tuple(notes), file.classes

    def _know(self) -> Known:
        """Return what a run of the module tells, of the same one in this process only once."""
        if self._known is None and self._make is not None:
            self._known = self._explore()
        elif self._known is None:
            self.check_allowed("model")
            stat = None if self.weight_file is None else self.weight_file.stat()
            changed = None if stat is None else (stat.st_mtime_ns, stat.st_size)
            key = (identify(self.of, self.arguments), self.weights, self._last, self._below,
                   self.output, self._size, changed)  # fmt: skip
            if key not in _KNOWN:
                _KNOWN[key] = self._explore()
            self._known = _KNOWN[key]
        return self._known

    def _explore(self) -> Known:
        """Run the module once, and return what that tells."""
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self._call()
            notes, classes = self._load_weights(module)
            prepared = read_preprocessing(module)
            if self._size is not None and prepared is not None:
                prepared = Preprocessing(self._size, prepared.mean, prepared.std)
            probe = self._make_probe(module, prepared)
            read = make_reader(self.output)
            layers = find_layers(module, probe, read, self._last, self._below)
            wrapped = Wrapped(module, (), layers, read)
            at = () if layers.problem is not None else ("last",)
            with torch.no_grad():
                answer = wrapped(probe[:1], at=at)
        logits = int(answer.logits.shape[1])
        return Known(
            layers=layers,
            channels=int(answer.activations["last"].shape[1]) if at else 0,
            form=default_form(module),
            logits=logits,
            names=read_own_names(module, logits),
            preprocessing=prepared,
            content=_hash_weights(module),
            notes=notes,
            classes=classes,
        )


# Modules that functions gave: one that gives the same again keeps it, and gets it back as it was.
_GIVEN: WeakSet[nn.Module] = WeakSet()
_KNOWN: dict[tuple[Any, ...], Known] = {}


def _for_colours(
    given: float | Sequence[float] | None, option: str
) -> tuple[float, float, float] | None:
    """Return a number for each of red, green and blue; None where none is given.

    Raises:
        UserError: It is neither one number nor three.
    """
    if given is None:
        return None
    numbers = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(numbers) not in (1, 3):
        raise UserError(
            f"model.{option}={list(numbers)}: expected a number for each of red, green and blue, "
            "or one for all"
        )
    red, green, blue = numbers if len(numbers) == 3 else numbers * 3
    return red, green, blue


def _make_module(make: Make, of: str) -> nn.Module:
    """Call what makes a module.

    Raises:
        UserError: it fails, or gives none.
    """
    try:
        made = make()
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"model.of={of}: failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"model.of={of}: gives a {type(made).__name__}, expected a torch.nn.Module")
    return made


def _hash_weights(module: nn.Module) -> str:
    """Return a hash of the tensors of a module."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _name_layer(problem: str) -> str:
    return problem.replace("last=NAME", "model.last=NAME")
