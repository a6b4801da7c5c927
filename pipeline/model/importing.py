"""What `model.of=` names, imported: `package.module:function`, or `path/to/file.py:function`.

A function is called where the user's own command names it (`allow`), never where only a file does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UserError
from pipeline.ops.hashing import hash_of

ALLOWED = "LABEL2BOX_MODEL_OF"
"""The environment variable that lists what the user's command named, for this process and the
processes that it starts."""


def allow(of: str, arguments: Mapping[str, Any] | None = None) -> None:
    """Let this process call a function, with these arguments, that the user's command names.

    Args:
        of: its name, as `Module` has it.
        arguments: that it is called with.
    """
    identities = {*_list_allowed(), identify(of, arguments)}
    os.environ[ALLOWED] = json.dumps(sorted(identities))


def is_allowed(of: str, arguments: Mapping[str, Any] | None = None) -> bool:
    """Return whether the user's command names a function with these arguments.

    Args:
        of: its name.
        arguments: that it is called with.
    """
    return identify(of, arguments) in _list_allowed()


def identify(of: str, arguments: Mapping[str, Any] | None) -> str:
    """Return a function and its arguments as text that can be compared.

    Args:
        of: its name.
        arguments: that it is called with.
    """
    return json.dumps([of, dict(arguments or {})], sort_keys=True, default=str)


def _list_allowed() -> list[str]:
    return [str(identity) for identity in json.loads(os.environ.get(ALLOWED, "[]"))]


def split_name(of: str) -> tuple[str, str]:
    """Split a name into that of a module or the path of a file, and that of a function.

    Args:
        of: the name.

    Examples:
        >>> split_name("networks/mine.py:build")
        ('networks/mine.py', 'build')
    """
    module, _, function = of.rpartition(":")
    return module, function


def import_function(of: str) -> Callable[..., Any]:
    """Import the function or class that a name means; its module is run.

    Args:
        of: the name.

    Raises:
        UserError: there is no such module, file or function, or it is no function.
    """
    module, name = split_name(of)
    try:
        loaded: Any = _import_file(of, Path(module)) if module.endswith(".py") else (
            importlib.import_module(module))  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # whatever the user's own module raises
        raise UserError(
            f"model.of={of}: {module} cannot be imported ({type(error).__name__}: {error}); it is "
            "looked for in the current folder, in PYTHONPATH and among installed packages"
        ) from error
    for part in name.split("."):
        if not hasattr(loaded, part):
            raise UserError(f"model.of={of}: {module} has no {name!r}")
        loaded = getattr(loaded, part)
    if not callable(loaded):
        raise UserError(
            f"model.of={of}: a {type(loaded).__name__}, expected a function or class that gives a "
            "torch.nn.Module"
        )
    function: Callable[..., Any] = loaded
    return function


def _import_file(of: str, path: Path) -> ModuleType:
    """Run a file as a module; modules beside it can be imported by it."""
    if not path.is_file():
        raise UserError(f"model.of={of}: no such file; it is looked for from the current folder")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and vars(known).get("__file__") == str(path):
        return known
    # Under its own name only where no other module has it.
    name = path.stem if importlib.util.find_spec(path.stem) is None or _is_found(path) else (
        f"_{path.stem}_{hash_of(str(path))}")  # fmt: skip
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_found(path: Path) -> bool:
    """Return whether the name of a file, imported, means this file."""
    spec = importlib.util.find_spec(path.stem)
    return spec is not None and spec.origin is not None and Path(spec.origin) == path
