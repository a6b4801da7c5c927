"""Modules of anybody's: the module itself, where its answer has the logits, and their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classes import number_classes
from pipeline.model.evaluation import evaluation_mode
from pipeline.model.forms import first_tensor
from pipeline.model.preprocessing import Preprocessing, count_channels
from pipeline.types import Size

# Of the images that a network is tried on where nobody says its size. 224 is also the last one, on
# which a network that reads none raises its own error.
PROBE_SIDES = (224, 64, 96, 32, 28, 128, 160, 192, 256, 299, 384, 448, 512, 224)
NOTE = "The function of"  # begins the note on an error of the caller's own


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


def check_rows(answer: Tensor, count: int) -> None:
    """Check that an answer has a row for each image.

    Args:
        answer: logits, or scores of the caller's own, [b, C].
        count: how many images there are.

    Raises:
        UserError: it has another number of rows.
    """
    if len(answer) != count:
        raise UserError(
            f"output, target: a score of each image is expected, or a row of logits; got "
            f"[{len(answer)}] for {count} image{'' if count == 1 else 's'}; the images are the "
            "first axis of what the network gives, as in target=lambda output: output[:, 3]"
        )


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


def make_probe(module: nn.Module, prepared: Preprocessing | None) -> Tensor:
    """Return two images of noise as a module reads them, on its device.

    Args:
        module: the network.
        prepared: how its images are prepared; None: unknown.
    """
    if prepared is not None:
        return make_noise(module, 2, prepared.size)
    side = getattr(getattr(module, "config", None), "image_size", None)
    if side is not None:
        return make_noise(module, 2, (side, side) if isinstance(side, int) else tuple(side))
    return make_noise(module, 2, find_size(module, [(side, side) for side in PROBE_SIDES]))


def make_noise(module: nn.Module, count: int, size: Size) -> Tensor:
    """Return images of noise, with the channels, dtype and device of a module's own.

    Args:
        module: the network.
        count: how many images.
        size: their height and width.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, count_channels(module), *size, generator=generator)
    parameter = next((p for p in module.parameters() if p.is_floating_point()), noise)
    return noise.to(parameter.device, parameter.dtype)


def find_size(module: nn.Module, sizes: Sequence[Size]) -> Size:
    """Return the first size that a module reads; the last of all where it reads none.

    Args:
        module: the network.
        sizes: height and width of images.
    """
    for size in sizes[:-1]:
        try:
            with torch.no_grad(), evaluation_mode(module):
                module(make_noise(module, 1, size))
        except Exception:  # whatever a network of others raises for a size that it does not read
            continue
        return size
    return sizes[-1]


def read_own_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names that a module of Hugging Face's has for its logits, else numbers.

    Args:
        module: the network.
        count: of its logits.
    """
    names = getattr(getattr(module, "config", None), "id2label", None)
    if isinstance(names, Mapping) and len(names) == count:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return number_classes(count)
