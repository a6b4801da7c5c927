"""Any network that gives logits, with its layers found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pipeline.api.preprocessing import (
    Preprocessing,
    count_channels,
    read_preprocessing,
)
from pipeline.errors import UserError
from pipeline.model.classes import number_classes
from pipeline.model.classifier import Classifier
from pipeline.model.discovery import Layers, find_layers
from pipeline.model.forms import first_tensor
from pipeline.model.wrapped import Wrapped

if TYPE_CHECKING:
    from jaxtyping import Float

PROBE_SIDE = 224  # of the images that a network is tried on where nobody says its size
NOTE = "The function of"  # begins the note on an error of the caller's own
MAX_REMEMBERED = 32  # ways to read one network


class AnyNetwork(Wrapped):
    """A network of anybody's: what `wrap` returns, and all methods take.

    It keeps no state between calls, and is the module itself with names for its layers: weights
    that change later are used.

    Attributes:
        preprocessing: how images that are no tensors are scaled and normalized; None: unknown.
    """

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str],
        layers: Layers,
        read_logits: Callable[[Any], Tensor],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(module, classes, layers, read_logits)
        self.preprocessing = preprocessing

    def with_scores(self, score: Callable[[Any], Tensor]) -> AnyNetwork:
        """Return the network with scores of the caller in the place of its logits.

        Args:
            score: from the module's output to scores [b] or [b, t].

        Raises:
            UserError: when it is called, `score` gives anything else.
        """
        return AnyNetwork(self.body, (), self.layers, make_score_reader(score), self.preprocessing)


def wrap(
    model: nn.Module,
    *,
    last: str | None = None,
    below: str | None = None,
    classes: Sequence[str] | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
    preprocessing: Any = None,
    images: Float[Tensor, "b c H W"] | None = None,
) -> AnyNetwork:
    """Return a network that all methods take, from any module that gives logits.

    The layers that nobody names are found by running the module once, and are remembered for it.

    Args:
        model: a module, also compiled or DataParallel. It stays as it is, also its mode.
        last: the layer of the last feature maps, by its path in `model.named_modules()`.
        below: the layer that the last block reads.
        classes: names of the logits; None: the module's own (`config.id2label`), else numbers.
        output: where the logits are in what the module gives: a key, an attribute or an index, or a
            function from the output to logits [b, C]; None: `.logits`, or the first tensor.
        preprocessing: see `read_preprocessing`; None: the module's own, if it says.
        images: to try the module on, as it reads them; None: noise of its own size.

    Raises:
        UserError: the output has no logits, or no layer gives feature maps.
        TypeError: `model` is no torch.nn.Module.
    """
    module = unwrap(model)
    reader = make_reader(output)
    prepared = read_preprocessing(module, preprocessing)
    layers, count = _layers_of(module, reader, output, last, below, images, prepared)
    names = tuple(classes) if classes is not None else _own_names(module, count)
    if len(names) != count:
        raise UserError(f"classes: {len(names)} names, but the network gives {count} logits")
    return AnyNetwork(module, names, layers, reader, prepared)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module that DataParallel and torch.compile wrap.

    Args:
        model: a module, wrapped or not.

    Raises:
        TypeError: it is no torch.nn.Module.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model: a TorchScript module has no layers that can be observed; give the module that "
            "it was made from"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", None)  # of torch.compile
    return unwrap(inner) if isinstance(inner, nn.Module) else model


def make_reader(output: str | int | Callable[[Any], Tensor] | None) -> Callable[[Any], Tensor]:
    """Return the function from what a module gives to logits [b, C].

    Args:
        output: as `wrap` has it.

    Raises:
        UserError: when it is called, the output has no logits.
    """

    def read_logits(given: Any) -> Tensor:
        logits = _find_logits(given, output)
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise UserError(f"output: {_describe(given)} has no logits there; {_NAME_OUTPUT}")
        if logits.ndim == 1:
            return logits[:, None]
        if logits.ndim != 2:
            raise UserError(
                f"output: {list(logits.shape)} are no logits [b, C], a row for each image; "
                f"{_NAME_OUTPUT}"
            )
        return logits

    return read_logits


def make_score_reader(score: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Return the function from what a module gives to scores [b, t] of the caller's own.

    Args:
        score: from the module's output to scores [b] or [b, t].

    Raises:
        UserError: when it is called, `score` gives anything else.
    """

    def read_scores(output: Any) -> Tensor:
        scores = _call(score, output, "target")
        if not isinstance(scores, Tensor) or scores.ndim not in (1, 2):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(
                f"target: a function gives a score of each image, [b] or [b, t]; got {got}"
            )
        return scores[:, None] if scores.ndim == 1 else scores

    return read_scores


_NAME_OUTPUT = (
    "say where they are: output='key', output=0, or output=lambda given: logits; or explain a "
    "score of your own: target=lambda given: scores"
)


def _call(function: Callable[[Any], Any], given: Any, option: str) -> Any:
    """Return what a function of the caller's gives; its own errors say which option it is of."""
    try:
        return function(given)
    except Exception as error:
        if not any(note.startswith(NOTE) for note in getattr(error, "__notes__", ())):
            error.add_note(f"{NOTE} {option}= raised this; it was given {_describe(given)}.")
        raise


def _has_place(given: Any, place: int) -> bool:
    return place in given if isinstance(given, Mapping) else -len(given) <= place < len(given)


def _find_logits(given: Any, output: str | int | Callable[[Any], Tensor] | None) -> Any:
    if callable(output):
        return _call(output, given, "output")
    if isinstance(output, int):
        if not isinstance(given, tuple | list | Mapping) or not _has_place(given, output):
            raise UserError(f"output={output}: {_describe(given)} has none there; {_NAME_OUTPUT}")
        return given[output]
    if isinstance(output, str):
        if isinstance(given, Mapping):
            return given.get(output)
        return getattr(given, output, None)
    if isinstance(given, Tensor):
        return given
    logits = given.get("logits") if isinstance(given, Mapping) else getattr(given, "logits", None)
    return first_tensor(given) if logits is None else logits


def _describe(given: Any) -> str:
    """Return what a module gave, for an error."""
    if isinstance(given, Tensor):
        return f"a tensor {list(given.shape)}"
    if isinstance(given, Mapping):
        return f"a mapping with {', '.join(map(str, list(given)[:8]))}"
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {', '.join(type(part).__name__ for part in given[:8])}"
    return type(given).__name__


# Names of layers only: nothing here keeps a module or a tensor.
_REMEMBERED: WeakKeyDictionary[nn.Module, dict[Any, tuple[Layers, int]]] = WeakKeyDictionary()


def _layers_of(
    module: nn.Module,
    reader: Callable[[Any], Tensor],
    output: Any,
    last: str | None,
    below: str | None,
    images: Tensor | None,
    prepared: Preprocessing | None,
) -> tuple[Layers, int]:
    """Return the layers of a module and the number of its logits, found once."""
    key = (len(list(module.modules())), output, last, below)
    # A function may refer to the module, which would then never be freed.
    known = {} if callable(output) else _REMEMBERED.setdefault(module, {})
    if key not in known:
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        probe = _make_probe(module, prepared) if images is None else _two_images(images)
        layers = find_layers(module, probe, reader, last, below)
        with torch.no_grad():
            count = AnyNetwork(module, (), layers, reader)(probe[:1]).logits.shape[1]
        known[key] = layers, count
    return known[key]


def _make_probe(module: nn.Module, prepared: Preprocessing | None) -> Tensor:
    """Return two images of noise as a module reads them."""
    side = getattr(getattr(module, "config", None), "image_size", None) or PROBE_SIDE
    size = (side, side) if prepared is None else prepared.size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, count_channels(module), *size, generator=generator)
    parameter = next(module.parameters(), noise)
    return noise.to(parameter.device, parameter.dtype)


def _two_images(images: Tensor) -> Tensor:
    """Return two different images of a batch; of a single one also its mirror image."""
    first = images[:2].detach()
    return first if len(first) == 2 else torch.cat((first, first.flip(3)))


def _own_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names that a module of Hugging Face's has for its logits, else numbers."""
    names = getattr(getattr(module, "config", None), "id2label", None)
    if isinstance(names, Mapping) and len(names) == count:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return number_classes(count)


def as_network(model: nn.Module, images: Tensor | None = None, **options: Any) -> Any:
    """Return a network that methods take: a wrapped one or one of ours as it is, others wrapped.

    Args:
        model: a module, or a network.
        images: see `wrap`.
        **options: of `wrap`.

    Raises:
        UserError: options are given for a network that is wrapped already.
    """
    if not isinstance(model, Classifier):
        return wrap(model, images=images, **options)
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: the network is wrapped already; give it to wrap()")
    return model
