"""The saliency methods that there are, and what each can explain."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from pipeline.api.peers import check_own, find_method, suggest_argument
from pipeline.api.wrapping import (
    AnyNetwork,
    OwnNetwork,
    as_network,
    detach_images,
    with_gradients,
)
from pipeline.engine.choices import instantiate, list_choices, locate, read_choice
from pipeline.engine.methods import needs_fitting
from pipeline.errors import UserError, suggest_choices
from pipeline.model.answers import PROBE_SIDES, find_size, make_noise
from pipeline.model.evaluation import HOOKS_LOCK
from pipeline.model.preprocessing import device_of, dtype_of
from pipeline.protocols import SaliencyMethod

if TYPE_CHECKING:
    from torch import Tensor

LAYER_OPTIONS = ("layers", "layer")
OWN = ("layer", "target", "precision", "output", "preprocessing", "last", "classes")  # no method's
TRIAL_PASSES = 12  # of the network, after which a method is taken to work
TRIAL_SIDE = 64  # of the image that a network is tried on, where it reads any size
NEEDS_FITTING = (
    "it is fitted to training images and their labels: python -m pipeline +experiment=cam "
    "saliency={name}, and pipeline.load(RUN)"
)


@dataclass(frozen=True)
class Method:
    """A choice of conf/saliency/.

    Attributes:
        name: as `explain` and `saliency=` take it.
        title: the first line of its module.
        options: their defaults by name.
        refusal: why the network that was given cannot be explained by it; None: it can, or none
            was given.
    """

    name: str
    title: str
    options: dict[str, Any]
    refusal: str | None = None

    @property
    def works(self) -> bool:
        """Whether the network that was given can be explained by it."""
        return self.refusal is None


@with_gradients
def methods(model: nn.Module | None = None, **options: Any) -> list[Method]:
    """List all saliency methods, and of a network which can explain it.

    Args:
        model: any module, or a wrapped network: each method is tried on a small image of noise.
            None: only list them.
        **options: of `wrap`.

    Examples:
        >>> import pipeline
        >>> [method.name for method in pipeline.methods() if method.name.endswith("cam")][:2]
        ['ablationcam', 'cam']
    """
    network = None if model is None else as_network(model, **options)
    trial = None if network is None else _make_trial(network, options.get("images"))
    listed = []
    for name in list_choices("saliency"):
        node = read_choice("saliency", name)
        module = str(node["_target_"]).rpartition(".")[0]
        title = (importlib.import_module(module).__doc__ or name).strip().splitlines()[0]
        refusal = None if trial is None else _try(network, name, trial)
        listed.append(Method(name, title, {**_parameters(node), **_options_of(node)}, refusal))
    return listed


def build_method(
    method: str | SaliencyMethod,
    layer: str | Sequence[str] | None,
    options: dict[str, Any],
    own: Sequence[str] = OWN,
) -> SaliencyMethod:
    """Return a method by its name, with its options, or an object that is one.

    Args:
        method: a choice of conf/saliency/, or a method.
        layer: the layer or layers that it reads; None: its own.
        options: of the method.
        own: arguments of the function that was called, which suggestions name.

    Raises:
        UserError: there is no such method or option, or it reads no layer.
    """
    if not isinstance(method, str):
        check_own(method, list_choices("saliency"))
        if layer is not None or options:
            given = ", ".join([*options, *(["layer"] if layer is not None else [])])
            raise UserError(f"{given}: the method is built already; give it these options itself")
        if isinstance(method, type) or not callable(method):
            raise UserError(
                f"method={method!r}: expected a name or an object, as method='gradcam' or "
                "method=GradCAM(layers=('layer4',))"
            )
        return method
    _check_method(method)
    node = dict(read_choice("saliency", method))
    parameters = _parameters(node)
    if layer is not None:
        key = next((key for key in LAYER_OPTIONS if key in parameters), None)
        if key is None:
            raise UserError(f"layer={layer!r}: {method} reads no layer that can be chosen")
        several = list(layer) if isinstance(layer, list | tuple) else [layer]
        if key == "layer" and len(several) != 1:
            raise UserError(f"layer={layer!r}: {method} reads one layer")
        node[key] = several if key == "layers" else several[0]
    for name in options:
        if name not in parameters:
            raise UserError(
                f"{name}=: {method} has no such option; "
                f"{suggest_argument(name, list(parameters), own)}"
            )
    built = instantiate("saliency", {**node, **options}, within="pipeline.saliency.")
    return cast(SaliencyMethod, built)


def _check_method(method: str) -> None:
    """Raise UserError unless there is a method of this name."""
    choices = list_choices("saliency")
    if method in choices:
        return
    meant = find_method(method, choices)
    hint = suggest_choices(method, choices) if meant is None else f"did you mean {meant!r}?"
    raise UserError(f"method={method!r}: no such method; {hint}")


def _parameters(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a choice's arguments by name."""
    signature = inspect.signature(locate("saliency", str(node["_target_"])))
    return {name: parameter.default for name, parameter in signature.parameters.items()}


def _options_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that the YAML file of a choice gives."""
    return {name: value for name, value in node.items() if name != "_target_"}


class _EnoughPassesError(Exception):
    """A trial ran the network so often that its method can explain it."""


def _try(network: Any, name: str, image: Tensor) -> str | None:
    """Return why a method cannot explain a network; None: it can.

    A method that runs the network for each channel or mask is stopped after some passes.
    """
    method = build_method(name, None, {})
    if needs_fitting(method):
        return NEEDS_FITTING.format(name=name)
    count, thread = 0, threading.get_ident()

    def count_pass(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > TRIAL_PASSES:
            raise _EnoughPassesError

    with HOOKS_LOCK:
        handle = network.head.register_forward_hook(count_pass)
    try:
        method(network, image, lambda logits: logits.argmax(1)[:, None])
    except UserError as error:
        return str(error)
    except _EnoughPassesError:
        return None
    except Exception as error:  # of a network of others: the rest of the list is still of use
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    finally:
        with HOOKS_LOCK:
            handle.remove()
    return None


def _make_trial(network: Any, images: Tensor | None) -> Tensor:
    """Return an image: one that is given, else noise, small where the network reads any size."""
    if images is not None:
        return detach_images(images[:1]).to(device_of(network), dtype_of(network))
    prepared = network.preprocessing if isinstance(network, AnyNetwork | OwnNetwork) else None
    others = [(side, side) for side in PROBE_SIDES] if prepared is None else [prepared.size]
    return make_noise(network, 1, find_size(network, [(TRIAL_SIDE, TRIAL_SIDE), *others]))
