"""Hydra's launchers: which one a command chooses, and whether it can run the jobs of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

from pipeline.engine.config import RUNNER
from pipeline.engine.ranks import launched_world
from pipeline.errors import UserError

LAUNCHER = "hydra/launcher"
BASIC = "basic"
PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "launchers"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "launchers"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "launchers"),
    "ray": ("ray", "ray"),
}
"""Launchers that are not part of Hydra, with the module that each needs, and our extra with it."""

SWEEP_FLAGS = ("-m", "--multirun")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the arguments of the command line ask for a sweep."""
    return any(argument in SWEEP_FLAGS for argument in arguments) or any(
        argument.lstrip("+") == "hydra.mode=MULTIRUN" for argument in arguments
    )


def chosen_launcher(arguments: Sequence[str]) -> str:
    """Return the launcher that the arguments of the command line choose."""
    return _read_choice(arguments, LAUNCHER) or BASIC


def _read_choice(arguments: Sequence[str], group: str) -> str | None:
    """Return the last choice of a group among the arguments; None where there is none."""
    chosen = [a.partition("=")[2] for a in arguments if a.lstrip("+").partition("=")[0] == group]
    return chosen[-1] if chosen else None


def check_launcher(arguments: Sequence[str]) -> None:
    """Check that the launcher that the arguments choose can run a sweep.

    Args:
        arguments: of the command line.

    Raises:
        UserError: there is no sweep, its package is not installed, or something else spreads the
            work already.
    """
    name = chosen_launcher(arguments)
    if name == BASIC:
        return
    given = f"{LAUNCHER}={name}"
    if not is_sweep(arguments):
        raise UserError(f"{given}: launchers run the jobs of a sweep; add -m, or leave it away")
    if "," in name:
        raise UserError(f"{given}: one launcher is expected; choices: {', '.join(PLUGINS)}")
    if launched_world().size > 1:
        raise UserError(
            f"{given}: torchrun has started {launched_world().size} processes, and each would "
            "launch all jobs; give the command without torchrun"
        )
    if name == "ray" and _read_choice(arguments, RUNNER) == "ray":
        raise UserError(
            f"{given} gives each job to one worker, and runner=ray spreads each job over all "
            f"workers; leave one of them away"
        )
    if name in PLUGINS and not _is_installed(PLUGINS[name][0]):
        raise UserError(f"{given}: not installed; pip install 'label2box[{PLUGINS[name][1]}]'")


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor can the package above it
        return False


def register_launchers(arguments: Sequence[str]) -> None:
    """Let Hydra find our own launcher where the arguments choose it."""
    if chosen_launcher(arguments) == "ray":
        from hydra.core.plugins import Plugins

        from pipeline.engine import ray_launcher

        # Hydra imports launchers from the package hydra_plugins alone, which we do not have.
        plugins = Plugins.instance()
        sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
        sys.modules["hydra_plugins.label2box"] = ray_launcher
        plugins.register(ray_launcher.RayLauncher)


def python_path() -> str:
    """Return PYTHONPATH for a process that is to import what this one can."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
