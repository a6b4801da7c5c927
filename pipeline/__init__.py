"""label2box: image labels in, boxes out. `load(path)` gives a predictor; see pipeline.api."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the command line starts without it.
    if name == "load":
        from pipeline.api import load

        return load
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
