"""Functions of the user's that a configuration names: `model.of=mymodule:build`.

They are called where the user's own command names them. The card of a checkpoint and the
configuration in a run's folder are files, which somebody else may have written: what only they name
is refused (pipeline/model/module.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.sources import hash_folder_source, hash_sources
from pipeline.model.importing import allow

TARGET = "pipeline.model.module.Module"


def names_function(model: Mapping[str, Any]) -> bool:
    """Return whether a node of a network names a function of the user's.

    Args:
        model: the node.
    """
    return str(model.get("_target_")) == TARGET and isinstance(model.get("of"), str)


def allow_named(model: Any) -> None:
    """Let this process call the function that the user's own configuration names, if it names one.

    Args:
        model: its node of the network, as it was composed from the command and from the folder of
            `--config-dir`.
    """
    if isinstance(model, Mapping) and names_function(model):
        allow(model["of"], model.get("arguments"))


def hash_function(model: Mapping[str, Any]) -> dict[str, str]:
    """Hash the source of the function that a network names, and of what it imports beside it.

    Args:
        model: the node of the network.

    Returns:
        The hash of each module or file by its name; empty where none is named.
    """
    if not names_function(model):
        return {}
    module = str(model["of"]).rpartition(":")[0]
    if module.endswith(".py"):
        return hash_folder_source(Path(module))
    return hash_sources([module])
