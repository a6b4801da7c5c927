"""An extension of griffe, which reads docstrings for the API reference (inherited.py)."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Function

from scripts.pages.inherited import complete_docstring, contracts


class ProtocolSections(Extension):
    """Complete the docstrings of the classes of a family by those of its protocol."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Replace the docstring of a method by the completed one.

        Args:
            func: a function or method that griffe has collected.
        """
        package = func.path.split(".")[1]
        contract = contracts().get((package, func.name))
        if contract is None or func.docstring is None:
            return
        func.docstring.value = complete_docstring(func.docstring.value, contract)
