"""`numba.njit` as this package uses it: compiled once, kept on disk, free of the GIL, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def njit(function: Function) -> Function:
    """Compile a function with numba; the compiled code is cached and runs without the GIL."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


def njit_inner(function: Function) -> Function:
    """Compile a function that only compiled functions call, at half the cost.

    It gets no interface to Python, and its code is cached with that of its callers.
    """
    options = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Function, numba.njit(**options)(function))
