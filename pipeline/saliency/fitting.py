"""Find and replace the methods that must be fitted, also within other methods.

`Views` and `Average` hold methods, any of which may have to be fitted to training images. The
caller lists them (`list_fittable`), adds up the statistics of each, and replaces them by the fitted
methods (`replace_fittable`). They are fitted to plain images: views are for explaining.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pipeline.protocols import FittableMethod, SaliencyMethod


def list_fittable(method: SaliencyMethod | FittableMethod) -> list[FittableMethod]:
    """List the methods that must be fitted: `method` itself, or those that it holds.

    Args:
        method: Any saliency method; dataclasses and tuples are searched in order.

    Returns:
        The methods to fit, in order; empty for most methods.
    """
    return list(_walk_fittable(method))


def replace_fittable(
    method: SaliencyMethod | FittableMethod, fitted: Sequence[SaliencyMethod]
) -> SaliencyMethod:
    """Replace each method that `list_fittable` lists by a fitted method.

    Args:
        method: The method to replace in.
        fitted: A fitted method for each listed method, in their order.

    Returns:
        A new method, ready to be called.

    Raises:
        ValueError: If the numbers differ.
    """
    if len(fitted) != len(list_fittable(method)):
        raise ValueError(f"expected {len(list_fittable(method))} fitted methods, got {len(fitted)}")
    replaced: SaliencyMethod = _replace_fittable(method, iter(fitted))
    return replaced


def _walk_fittable(value: Any) -> Iterator[FittableMethod]:
    if isinstance(value, FittableMethod):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _walk_fittable(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk_fittable(item)


def _replace_fittable(value: Any, fitted: Iterator[SaliencyMethod]) -> Any:
    if isinstance(value, FittableMethod):
        return next(fitted)
    if (
        is_dataclass(value)
        and not isinstance(value, type)
        and any(True for _ in _walk_fittable(value))
    ):
        changes = {f.name: _replace_fittable(getattr(value, f.name), fitted) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_replace_fittable(item, fitted) for item in value)
    return value
