"""The command `python -m pipeline clean`: what takes room in a folder of outputs, and what can go.

It deletes results that no run links to and what killed runs left behind, once the user agrees.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.engine import terminal
from pipeline.engine.inventory import Inventory, Result, RunFiles, read_inventory
from pipeline.engine.removal import Plan, Removed, count_of, plan_removal, remove
from pipeline.engine.serve import ingest_command
from pipeline.engine.sizes import format_age, format_size, parse_age
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.remote_errors import hide_secrets
from pipeline.formats.stored import is_address

MAX_LISTED_RUNS = 20
BOOLEANS = {"true": True, "false": False}

USAGE = """python -m pipeline clean [OPTION=VALUE ...]

Lists what takes room in the folder of outputs, by stage and run, and what is safe to delete:
results that no run links to, and files that killed runs and sweeps left. It asks before it deletes
anything.

  yes=true, --yes         delete without asking
  outputs=DIR             the folder of outputs
  runs=cam,best/2026-01*  delete these whole runs, too, and the results that only they link to;
                          runs=all: every run
  older_than=30d          delete whole runs, or those of runs=, that are older (12h, 30d, 8w)
  unfinished=true         delete what killed runs computed, too: their command begins anew
  marks=true              delete runs with marks of a person that were not ingested, too

Runs that go on keep all that they may use. Runs with marks of a person, made in their report, are
kept until +experiment=ingest has taken these. A deleted result is computed again when needed."""


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """The arguments of the command.

    Attributes:
        outputs: the folder of outputs.
        runs: patterns of the runs to delete, as `cam` or `cam/2026*`; `all`.
        older_than: an age; only older runs are deleted.
        unfinished: whether results of killed runs are deleted.
        marks: whether runs are deleted that have marks which were not ingested.
        yes: whether to delete without asking.
    """

    outputs: str = "outputs"
    runs: str = ""
    older_than: str = ""
    unfinished: bool = False
    marks: bool = False
    yes: bool = False


def parse_arguments(arguments: Sequence[str]) -> CleanOptions:
    """Return the options that the arguments give.

    Raises:
        UserError: an argument is none of them, or has a wrong value.
    """
    names = {field.name: field.type for field in fields(CleanOptions)}
    given: dict[str, str | bool] = {}
    for argument in arguments:
        text = "yes=true" if argument in ("--yes", "-y") else argument
        key, equals, value = text.partition("=")
        if not equals or key not in names:
            raise UserError(f"clean {argument}: no such option; {suggest_choices(key, names)}")
        if names[key] == "bool":
            if value.lower() not in BOOLEANS:
                raise UserError(f"clean {argument}: expected {key}=true or {key}=false")
            given[key] = BOOLEANS[value.lower()]
        else:
            given[key] = value
    options = CleanOptions(**given)  # type: ignore[arg-type]
    if options.older_than and parse_age(options.older_than) is None:
        raise UserError(f"clean older_than={options.older_than}: expected an age as 12h, 30d or 8w")
    return options


def clean(arguments: Sequence[str]) -> None:
    """List what takes room, and delete what is safe to delete if the user agrees.

    Args:
        arguments: those of the command line after `clean`.

    Raises:
        UserError: an argument is wrong, or there is no such folder on this disk, or run.
    """
    if {"--help", "-h"} & set(arguments):
        terminal.print_line(USAGE)
        return
    options = parse_arguments(arguments)
    if is_address(options.outputs):
        raise UserError(
            f"clean outputs={hide_secrets(options.outputs)}: results in an object store are "
            "deleted with its own tools, a run, or a result of a stage, at a time; copies on this "
            "disk lie in the working folder that a run prints, and store.cache_limit bounds them"
        )
    outputs = Path(options.outputs)
    if not outputs.is_dir():
        raise UserError(f"clean outputs={outputs}: no such folder; outputs=DIR names another")
    inventory = read_inventory(outputs)
    chosen = select_runs(inventory, options, time.time())
    plan = plan_removal(inventory, chosen, options.unfinished, options.marks)
    for line in (*describe_inventory(inventory, outputs), "", *describe_plan(inventory, plan)):
        terminal.print_line(line)
    if not (plan.runs or plan.results or plan.leftovers or plan.sweeps):
        return
    if options.yes or _ask():
        for line in describe_removed(remove(outputs, plan)):
            terminal.print_line(line)
    else:
        terminal.print_line("nothing deleted; yes=true deletes these without asking")


def select_runs(inventory: Inventory, options: CleanOptions, now: float) -> list[RunFiles]:
    """Return the runs that the options choose for deletion.

    Raises:
        UserError: there is no such run.
    """
    if not options.runs and not options.older_than:
        return []
    chosen = [*inventory.runs]
    if options.runs not in ("", "all"):
        patterns = [text.strip().rstrip("/") for text in options.runs.strip("[]").split(",")]
        for pattern in patterns:
            if not any(_matches(run, pattern) for run in chosen):
                names = {name for run in chosen for name in (run.name, run.folder.parent.name)}
                raise UserError(
                    f"clean runs={pattern}: no such run; {suggest_choices(pattern, names)}"
                )
        chosen = [run for run in chosen if any(_matches(run, text) for text in patterns)]
    age = parse_age(options.older_than) if options.older_than else None
    return [run for run in chosen if age is None or now - run.began > age]


def _matches(run: RunFiles, pattern: str) -> bool:
    """Return whether a pattern names a run, or its experiment."""
    return fnmatchcase(run.name, pattern) or fnmatchcase(run.folder.parent.name, pattern)


def _ask() -> bool:
    """Return whether the user agrees; False where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("delete these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


# -- what is printed -----------------------------------------------------------------------------


def describe_inventory(inventory: Inventory, outputs: Path) -> list[str]:
    """Return a table of stages and one of runs."""
    now = time.time()
    sizes = [result.size for result in inventory.results]
    sizes += [run.size for run in inventory.runs]
    count = f"{count_of(len(inventory.results), 'result')} of stages"
    lines = [
        f"{outputs}: {format_size(sum(sizes))} in {count} and "
        f"{count_of(len(inventory.runs), 'run')}"
    ]
    if inventory.results:
        head = ("stage", "results", "size", "no run links to", "last used")
        lines += ["", *_format_table([head, *_stage_rows(inventory.results, now)])]
    if inventory.runs:
        head = ("run", "own files", "its results", "no other's", "age")
        alone = _sizes_of_single_runs(inventory)
        by_size = sorted(inventory.runs, key=lambda run: -run.size - alone[run.folder])
        shown = by_size[:MAX_LISTED_RUNS]
        lines += ["", *_format_table([head, *_run_rows(shown, inventory, alone, now)])]
        if others := by_size[MAX_LISTED_RUNS:]:
            freed = sum(run.size + alone[run.folder] for run in others)
            lines.append(f"and {count_of(len(others), 'run')} more: {format_size(freed)}")
    return lines


def _stage_rows(results: Sequence[Result], now: float) -> list[tuple[str, ...]]:
    """Return a row for each stage, the largest first."""
    by_stage: dict[str, list[Result]] = {}
    for result in results:
        by_stage.setdefault(result.stage, []).append(result)
    largest = sorted(by_stage.items(), key=lambda item: -sum(r.size for r in item[1]))
    return [
        (
            stage,
            f"{len(group):,}",
            format_size(sum(result.size for result in group)),
            format_size(sum(result.size for result in group if not result.runs)),
            f"{format_age(now - max(result.used for result in group))} ago",
        )
        for stage, group in largest
    ]


def _run_rows(
    runs: Sequence[RunFiles], inventory: Inventory, alone: dict[Path, int], now: float
) -> list[tuple[str, ...]]:
    """Return a row for each run."""
    sizes = {result.folder: result.size for result in inventory.results}
    return [
        (
            run.name,
            format_size(run.size),
            format_size(sum(sizes.get(folder, 0) for folder in run.results)),
            format_size(alone[run.folder]),
            "goes on" if run.goes_on else format_age(now - run.began),
        )
        for run in runs
    ]


def _sizes_of_single_runs(inventory: Inventory) -> dict[Path, int]:
    """Return for each run the bytes of the results that no other run links to."""
    sizes = {run.folder: 0 for run in inventory.runs}
    for result in inventory.results:
        if len(set(result.runs)) == 1 and result.runs[0] in sizes:
            sizes[result.runs[0]] += result.size
    return sizes


def _format_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]


def describe_plan(inventory: Inventory, plan: Plan) -> list[str]:
    """Return lines on what is to be deleted and what is kept."""
    lines = []
    for items, noun in (
        (plan.runs, "whole run"),
        (plan.results, "result" if not plan.runs else "result that no other run links to"),
    ):
        if items:
            size = format_size(sum(item.size for item in items))
            lines.append(f"  {_count_phrase(len(items), noun)}: {size}")
    if plan.leftovers:
        size = format_size(sum(plan.leftovers.values()))
        lines.append(f"  {count_of(len(plan.leftovers), 'file')} that killed runs left: {size}")
    if plan.sweeps:
        size = format_size(sum(plan.sweeps.values()))
        lines.append(f"  {count_of(len(plan.sweeps), 'log')} and records that sweeps left: {size}")
    lines += [
        f"  with {run.name} for good: {run.marks}, made by a person and not ingested"
        for run in plan.runs
        if run.marks
    ]
    head = f"safe to delete, {format_size(plan.size)}:" if lines else "nothing is there to delete"
    kept = [
        f"kept: {run.name}, which {needing.name} names in its configuration"
        for run, needing in plan.kept_for
    ]
    kept += [
        f"kept: {run.name}, with {run.marks}, made by a person and not ingested; "
        f"`{ingest_command(run.folder)}` takes them, and marks=true deletes them with the run"
        for run in plan.kept_marks
    ]
    in_use = [result for result in inventory.results if result.is_in_use and not result.runs]
    if in_use:
        size = format_size(sum(result.size for result in in_use))
        kept.append(f"kept: {count_of(len(in_use), 'result')} that a run may be using, {size}")
    if kept_logs := [each for each in inventory.sweeps if each.is_in_use]:
        size = format_size(sum(each.size for each in kept_logs))
        kept.append(
            f"kept: {count_of(len(kept_logs), 'log')} and records of sweeps that go on, or wrote "
            f"within the last hour, {size}"
        )
    dropped = {result.folder for result in plan.results}
    unfinished = [
        result
        for result in inventory.results
        if not result.is_done and not result.is_in_use and result.folder not in dropped
    ]
    if unfinished:
        size = format_size(sum(result.size for result in unfinished))
        kept.append(
            f"kept: {count_of(len(unfinished), 'unfinished result')} of killed runs, {size}, which "
            "the same command goes on from (unfinished=true deletes them)"
        )
    return [head, *lines, *kept]


def _count_phrase(count: int, noun: str) -> str:
    """Return a number with a noun that a clause may follow."""
    word, that, clause = noun.partition(" that ")
    return f"{count_of(count, word)}{that}{clause}"


def describe_removed(removed: Removed) -> list[str]:
    """Return lines on what was deleted, and what could not be."""
    counts = {"run": removed.runs, "result": removed.results, "other file": removed.leftovers}
    parts = ", ".join(count_of(count, noun) for noun, count in counts.items() if count)
    lines = [f"deleted: {parts or 'nothing'}; {format_size(removed.size)} freed"]
    if removed.refused:
        named = ", ".join(str(path) for path in removed.refused[:3])
        lines.append(
            f"not deleted: {count_of(len(removed.refused), 'path')}, in use by now or without "
            f"permission, as {named}"
        )
    return lines
