"""label2box: image labels in, boxes out. `load(path)` gives a predictor; see pipeline.api."""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing, which takes longer to import than the command line waits
if TYPE_CHECKING:
    from typing import Any

    from pipeline.api import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the command line starts without it.
    if name == "load":
        from pipeline.api import load

        return load
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
