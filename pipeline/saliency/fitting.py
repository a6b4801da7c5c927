"""Methods that look at the training images first, also where another method is made of them.

`Views` and `Average` hold methods, and any of those may be one to be fitted. Whoever fits asks for
the `parts`, adds up the statistics of each, and gets the whole back `with_fitted` ones in their
place. They are fitted to plain images: views are for explaining.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pipeline.protocols import FittableMethod, SaliencyMethod


def parts(method: SaliencyMethod | FittableMethod) -> list[FittableMethod]:
    """What in a method is to be fitted, itself perhaps; mostly nothing."""
    return list(_parts(method))


def with_fitted(
    method: SaliencyMethod | FittableMethod, fitted: Sequence[SaliencyMethod]
) -> SaliencyMethod:
    """The method with each of its `parts` replaced, in their order."""
    if len(fitted) != len(parts(method)):
        raise ValueError(f"expected {len(parts(method))} fitted methods, got {len(fitted)}")
    whole: SaliencyMethod = _replaced(method, iter(fitted))
    return whole


def _parts(one: Any) -> Iterator[FittableMethod]:
    if isinstance(one, FittableMethod):
        yield one
    elif is_dataclass(one):
        for field in fields(one):
            yield from _parts(getattr(one, field.name))
    elif isinstance(one, tuple):
        for inner in one:
            yield from _parts(inner)


def _replaced(one: Any, fitted: Iterator[SaliencyMethod]) -> Any:
    if isinstance(one, FittableMethod):
        return next(fitted)
    if is_dataclass(one) and not isinstance(one, type) and any(True for _ in _parts(one)):
        return replace(
            one, **{f.name: _replaced(getattr(one, f.name), fitted) for f in fields(one)}
        )
    return tuple(_replaced(inner, fitted) for inner in one) if isinstance(one, tuple) else one
