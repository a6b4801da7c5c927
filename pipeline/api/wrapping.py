"""Any network that gives logits, with its layers found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pipeline.api.peers import answer_call
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.negatives import FIELD
from pipeline.errors import UserError
from pipeline.model.answers import (
    make_probe,
    make_reader,
    make_score_reader,
    read_own_names,
    unwrap,
)
from pipeline.model.classifier import Classifier
from pipeline.model.discovery import Layers, find_layers
from pipeline.model.preprocessing import Preprocessing, dtype_of, read_preprocessing
from pipeline.model.wrapped import Wrapped

if TYPE_CHECKING:
    from jaxtyping import Float

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
        reader = make_score_reader(score)
        other = AnyNetwork(self.body, (), self.layers, reader, self.preprocessing)
        other.answers = "scores"
        return other


def check_order(model: Any, images: Any) -> None:
    """Check that the network comes first, and the images second.

    Args:
        model: what was given first.
        images: what was given second.

    Raises:
        TypeError: they are swapped.
    """
    if isinstance(images, nn.Module) and not isinstance(model, nn.Module):
        raise TypeError("model, images: they are swapped; first the network, then the images")


Layer: TypeAlias = str | nn.Module
"""A layer, by its path in `model.named_modules()`, or the module itself."""


def name_layers(model: Any, layers: Layer | Sequence[Layer] | None, option: str = "layer") -> Any:
    """Return layers by their paths, of which some may be given as modules of the network.

    Args:
        model: the network, wrapped or not.
        layers: one, several or None.
        option: what messages call them.

    Returns:
        A name, a list of names, or None, as `layers` is.

    Raises:
        UserError: one is neither a name nor a module of the network.
    """
    if layers is None or isinstance(layers, str):
        return layers
    is_list = isinstance(layers, Sequence) and not isinstance(layers, nn.Module)
    several: list[Any] = list(layers) if is_list else [layers]  # type: ignore[arg-type]
    if all(isinstance(layer, str) for layer in several):
        return several
    network = model.network if isinstance(model, Checkpoint) else model
    body = network.body if isinstance(network, Classifier) else unwrap(network)
    paths = {id(module): path for path, module in body.named_modules() if path}
    names = []
    for layer in several:
        name = layer if isinstance(layer, str) else paths.get(id(layer))
        if name is None:
            what = type(layer).__name__
            reason = (
                f"this {what} is no module within the network"
                if isinstance(layer, nn.Module)
                else f"expected a name or a module, got {what}"
            )
            raise UserError(
                f"{option}: {reason}; name it by its path in model.named_modules(), as "
                f"{option}='layer4'"
            )
        names.append(name)
    return names if is_list else names[0]


class OwnNetwork(Classifier):
    """A network that was trained here, with how its images are prepared: `load(RUN).network`.

    It shares all modules with the checkpoint's.

    Args:
        trained: the checkpoint.

    Attributes:
        preprocessing: how images that are no tensors are scaled and normalized.
        negatives: names of the classes without an object.
    """

    def __init__(self, trained: Checkpoint) -> None:
        network = trained.network
        super().__init__(network.body, network.head, network.classes, network.last, network.below)
        self.branches = network.branches
        self.answers = network.answers
        self.preprocessing = Preprocessing(
            trained.size, trained.mean, trained.std, trained.intensity
        )
        self.negatives = frozenset(trained.card.get(FIELD, ()))
        self.eval()


Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def with_gradients(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Return the function so that it leaves torch.inference_mode() for the time of a call.

    Tensors that are made there never have gradients, which methods need. A call that does not fit
    the function is answered with what users of the peers mean by it.

    Args:
        function: anything that runs a network.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Returned:
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            raise answer_call(error, list(options)) from None
        if not torch.is_inference_mode_enabled():
            return function(*args, **options)
        with torch.inference_mode(False):
            return function(*args, **options)

    return call


@with_gradients
def wrap(
    model: nn.Module,
    *,
    last: Layer | None = None,
    below: Layer | None = None,
    classes: Sequence[str] | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
    preprocessing: Any = None,
    images: Float[Tensor, "b c H W"] | None = None,
    multi_label: bool | None = None,
) -> AnyNetwork:
    """Return a network that all methods take, from any module that gives logits.

    The layers that nobody names are found by running the module once, and are remembered for it.

    Args:
        model: a module, also compiled or DataParallel. It stays as it is, also its mode.
        last: the layer of the last feature maps: its path in `model.named_modules()`, or the
            module.
        below: the layer that the last block reads.
        classes: names of the logits; None: the module's own (`config.id2label`), else numbers.
        output: where the logits are in what the module gives: a key, an attribute or an index, or a
            function from the output to logits [b, C]; None: `.logits`, or the first tensor.
        preprocessing: see `read_preprocessing`; None: the module's own, if it says.
        images: to try the module on, as it reads them; None: noise of its own size.
        multi_label: whether an image may have several of the classes: their probability is then the
            sigmoid of each logit, not the softmax of all.

    Raises:
        UserError: the output has no logits, or no layer gives feature maps.
        TypeError: `model` is no torch.nn.Module.
    """
    module = unwrap(model)
    named = name_layers(module, last, "last"), name_layers(module, below, "below")
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise UserError(
            "model: its weights were made within torch.inference_mode(), where nothing has "
            "gradients; build and load it outside, torch.no_grad() is allowed"
        )
    reader = make_reader(output)
    prepared = read_preprocessing(module, preprocessing)
    layers, count = _layers_of(module, reader, output, *named, images, prepared)
    names = tuple(classes) if classes is not None else read_own_names(module, count)
    if len(names) != count:
        raise UserError(f"classes: {len(names)} names, but the network gives {count} logits")
    network = AnyNetwork(module, names, layers, reader, prepared)
    network.answers = "independent" if multi_label else "exclusive"
    return network


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
        probe = make_probe(module, prepared) if images is None else _two_images(images)
        probe = probe.to(dtype_of(module))
        layers = find_layers(module, probe, reader, last, below)
        with torch.no_grad():
            count = AnyNetwork(module, (), layers, reader)(probe[:1]).logits.shape[1]
        known[key] = layers, count
    return known[key]


def _two_images(images: Tensor) -> Tensor:
    """Return two different images of a batch; of a single one also its mirror image."""
    first = detach_images(images[:2])
    return first if len(first) == 2 else torch.cat((first, first.flip(3)))


def detach_images(images: Tensor) -> Tensor:
    """Return images without a graph, of which gradients can be computed: no inference tensor.

    Args:
        images: a batch.
    """
    return images.clone() if images.is_inference() else images.detach()


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
