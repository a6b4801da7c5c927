"""label2box: image labels in, boxes out; see pipeline.api for what can be called from Python."""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing, which takes longer to import than the command line waits
if TYPE_CHECKING:
    from typing import Any

    from pipeline.api import audit_maps, evaluate, explain, load, localize, methods, show, wrap

__all__ = ["audit_maps", "evaluate", "explain", "load", "localize", "methods", "show", "wrap"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the command line starts without it.
    if name in __all__:
        from pipeline import api

        return vars(api)[name]
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}{_suggest_method(name)}")


def _suggest_method(name: str) -> str:
    """Return how to call a method that a peer has a class of this name for; else nothing."""
    if not any(letter.isupper() for letter in name):  # of a submodule: nothing is imported for it
        return ""
    from pipeline.api.peers import find_method
    from pipeline.engine.choices import list_choices

    method = find_method(name, list_choices("saliency"))
    return "" if method is None else f"; pipeline.explain(model, images, method={method!r})"


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
