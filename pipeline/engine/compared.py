"""The runs and methods that are put side by side, each by a short name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine.completion import complete_config, read_run_config

if TYPE_CHECKING:
    from pipeline.engine.run import Run


def open_compared(run: Run) -> list[Run]:
    """Return the runs that are put side by side, each with its own data set and methods.

    A run is opened once, however often it is asked for.

    Args:
        run: the first of `runs=`; without it, there is no other one.

    Raises:
        UserError: one of the runs cannot be opened.
    """
    for folder in run.config["runs"][1:]:
        if folder not in run.opened:
            config = {**run.config, "run": None, "runs": [folder]}
            complete, methods = complete_config(config, {})
            run.opened[folder] = run.complete(complete, methods, next(iter(methods)))
    return [run, *(run.opened[folder] for folder in run.config["runs"][1:])]


def name_jobs(run: Run) -> list[tuple[str, Run]]:
    """Return each method of each run that is put side by side, with what to call it.

    Args:
        run: names the others in `runs=`; without it, its own methods are meant.

    Raises:
        UserError: one of the runs cannot be opened.
    """
    runs = open_compared(run)
    labels = _label_runs(runs) if len(runs) > 1 else [""]
    return [
        (_call(label, name, len(each.methods)), each.for_method(name))
        for label, each in zip(labels, runs, strict=True)
        for name in each.methods
    ]


def _call(label: str, method: str, count: int) -> str:
    """Return what to call a method of a run."""
    if not label:
        return method
    return label if count == 1 else f"{label}: {method}"


def _label_runs(runs: Sequence[Run]) -> list[str]:
    """Return for each run its experiment, its method or its time: what first tells them apart."""
    folders = [Path(str(run.config["run"])) for run in runs]
    names = [str(read_run_config(folder).get("name", "run")) for folder in folders]
    methods = [", ".join(run.methods) for run in runs]
    several = [f"{name} {method}" for name, method in zip(names, methods, strict=True)]
    for labels in (names, methods, several):
        if len(set(labels)) == len(labels):
            return labels
    return ["/".join(folder.resolve().parts[-2:]) for folder in folders]
