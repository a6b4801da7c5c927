"""Find and replace the methods that must be fitted, also within other methods.

`Views` and `Average` hold methods, any of which may have to be fitted to training images. The
caller asks for the `parts`, adds up the statistics of each, and replaces them by the fitted methods
(`with_fitted`). They are fitted to plain images: views are for explaining.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pipeline.protocols import FittableMethod, SaliencyMethod


def parts(method: SaliencyMethod | FittableMethod) -> list[FittableMethod]:
    """List the methods that must be fitted: `method` itself, or those that it holds.

    Args:
        method: Any saliency method; dataclasses and tuples are searched in order.

    Returns:
        The methods to fit, in order; empty for most methods.
    """
    return list(_walk_parts(method))


def with_fitted(
    method: SaliencyMethod | FittableMethod, fitted: Sequence[SaliencyMethod]
) -> SaliencyMethod:
    """Replace each of the `parts` of a method by a fitted method.

    Args:
        method: The method whose `parts` are replaced.
        fitted: A fitted method for each of the `parts`, in their order.

    Returns:
        A new method, ready to be called.

    Raises:
        ValueError: If the numbers differ.
    """
    if len(fitted) != len(parts(method)):
        raise ValueError(f"expected {len(parts(method))} fitted methods, got {len(fitted)}")
    replaced: SaliencyMethod = _replace_parts(method, iter(fitted))
    return replaced


def _walk_parts(value: Any) -> Iterator[FittableMethod]:
    if isinstance(value, FittableMethod):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _walk_parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk_parts(item)


def _replace_parts(value: Any, fitted: Iterator[SaliencyMethod]) -> Any:
    if isinstance(value, FittableMethod):
        return next(fitted)
    if (
        is_dataclass(value)
        and not isinstance(value, type)
        and any(True for _ in _walk_parts(value))
    ):
        changes = {f.name: _replace_parts(getattr(value, f.name), fitted) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_replace_parts(item, fitted) for item in value)
    return value
