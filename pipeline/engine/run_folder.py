"""The folder of a run, `outputs/runs/<experiment>/<time>/`; `outputs/latest` links to the newest.

config.yaml  notes.json  boxes.json  predictions.json  metrics.json  report/index.html
comparison.json  differences from another run and between methods, with their significance
explained/   each image's maps as pictures, and its sheet, where stage picture was run
check/       what is wrong with the data set, and check.json, where stage check was run
audit.json   whether the maps can be trusted, and audit.txt, the table, where stage audit was run
inspected/   what the network looks for, where stage inspect was run
pictures/    each image with its boxes, where stage draw was run
notes.json   what was not used, repaired or replaced, of files and by each stage
stages/      links to the folders that hold the results
report/, review/   in a run with run=RUN (export, ingest, onnx): links to those of RUN
marks/       what a person marked in the report, where it was served (serve.py)
<method>/    the same files for each further method, where a run has several
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from pipeline.engine import checkpoint, interrupt, terminal
from pipeline.engine.completion import CONFIG_FILE
from pipeline.engine.inventory import STALE, add_user
from pipeline.engine.remote_checkpoint import address_of
from pipeline.engine.remote_outputs import attached_to
from pipeline.engine.run import Run
from pipeline.engine.stage import find_stage, list_stages
from pipeline.engine.store import LOCK
from pipeline.engine.sweep import JobOutcome
from pipeline.errors import UserError
from pipeline.formats import results_folder
from pipeline.formats.files import read_json, write_json, write_text
from pipeline.formats.json_records import write_records
from pipeline.results.notes import NOTES_FILE, note_record, unique_notes

MAX_PRINTED_NOTES = 20  # of a stage
REPORT = "report/index.html"
STAGES_OF_PAGES = ("report", "annotate")
"""Stages whose pages a run with run= shows, too."""


@dataclass
class RunFolder:
    """The folder of a run, into which the results of its stages are copied or linked.

    It is locked while it is open: then `python -m pipeline clean` keeps what the run may use. If
    the block raises an error before there is a result, the folder is deleted.

    Attributes:
        run: the run, for its main method.
        path: the folder.
        lock: its lock.
        has_new_result: whether a stage computed a result in this run.
        is_latest: whether `outputs/latest` linked to this folder when the run was finished.
    """

    run: Run
    path: Path
    lock: FileLock
    has_new_result: bool = False
    is_latest: bool = False
    notes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(cls, run: Run) -> RunFolder:
        """Create and lock the folder of a run, named by the time, with its configuration.

        Raises:
            UserError: the folder of outputs cannot be written to.
        """
        parent = run.outputs / "runs" / str(run.config["name"])
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"outputs={run.outputs}: cannot be written to ({error.strerror}); "
                "outputs=DIR writes elsewhere"
            ) from None
        now = time.strftime("%Y-%m-%d_%H-%M-%S")
        remote = attached_to(run.outputs)
        for n in range(1, 10_000):
            path = parent / (now if n == 1 else f"{now}_{n}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:  # of another run that began in the same second
                continue
            if remote is None or remote.claim_run(path):
                break
            path.rmdir()  # another machine has begun one in that second
        folder = cls(run, path, FileLock(path / LOCK))
        folder.lock.acquire()
        results_folder.mark(path)
        if run.config["checkpoint"] is not None:  # so that this run can be a checkpoint= too
            folder.publish("train", run.method, run.checkpoint)
            folder.link_checkpoint_thresholds()
        write_text(path / CONFIG_FILE, yaml.safe_dump(_settings(run), sort_keys=False))
        folder.add_notes("data", run.noted_method, run.data.notes())
        return folder

    def __enter__(self) -> RunFolder:
        """Return the folder, which is locked."""
        interrupt.at_forced_end.append(self.discard_if_empty)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Unlock the folder; delete it where an error came before any result."""
        interrupt.at_forced_end.remove(self.discard_if_empty)
        if kind is not None:
            self.discard_if_empty()
        self.lock.release()
        (self.path / LOCK).unlink(missing_ok=True)

    def link_checkpoint_thresholds(self) -> None:
        """Link the thresholds of the checkpoint's run, where boxes are segmented at them."""
        if "localize" in self.run.config["stages"] and self.run.uses_validation_threshold:
            for method in self.run.methods:
                run = self.run.for_method(method)
                if not run.chooses_own_threshold():
                    self.publish("calibrate", method, run.checkpoint_thresholds_folder())

    def publish(self, name: str, method: str, result: Path) -> None:
        """Copy or link a stage's result into the run folder, and print the stage's lines about it.

        Args:
            name: of the stage.
            method: the saliency method that the result is of.
            result: the folder of the result.
        """
        stage = find_stage(name)
        is_main = method == self.run.method or not stage.per_method
        link = self.path / "stages" / (name if is_main else f"{name}-{method}")
        _link(link, result)
        if not result.resolve().is_relative_to(self.run.outputs.resolve()):
            add_user(result, self.path)
        folder = self.path if is_main else self.path / method
        for item in stage.publishes:
            if item.is_optional and not (result / item.source).exists():
                continue
            if item.how == "append":
                self._append(item.path, read_json(result / item.source), is_main)
            elif item.how == "link":
                _link(folder / item.path, result / item.source)
            else:
                (folder / item.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(result / item.source, folder / item.path)
        if stage.prints is not None:
            _print_text((result / stage.prints).read_text(encoding="utf-8"))
        for line in stage.announce(result, self.path):
            terminal.print_line(line)

    def add_notes(self, stage: str, method: str | None, notes: Sequence[str]) -> None:
        """Print notes, and add those with a new text to the run's notes.json.

        Args:
            stage: the stage that they are of; `data` for notes on files.
            method: the saliency method that they are of; None: of none.
            notes: lines, or notes that know what they count.
        """
        known = {record["text"] for record in self.notes}
        new = [note for note in unique_notes(notes) if note_record(note)["text"] not in known]
        # The line that counts the others is worth it from two of them on.
        shown = len(new) if len(new) == MAX_PRINTED_NOTES + 1 else MAX_PRINTED_NOTES
        for note in new[:shown]:
            terminal.print_note(note)
        if more := len(new[shown:]):
            terminal.print_note(f"{stage}: {more} more notes in {self.path / NOTES_FILE}")
        where = {"stage": stage, "method": method}
        self.notes += [{**where, **note_record(note)} for note in new]
        write_json(self.path / NOTES_FILE, self.notes, indent=1)

    def _append(self, name: str, records: Any, is_main: bool) -> None:
        """Add records to the list of all methods in a file; the main method's begin a new list."""
        path = self.path / name
        before = [] if is_main or not path.is_file() else read_json(path)
        added = records if isinstance(records, list) else [records]
        write_records(path, [*before, *added])

    def finish(self, is_complete: bool = True) -> None:
        """Complete the folder, let `outputs/latest` link to it, and print where the results are.

        Args:
            is_complete: whether all stages ran; else a stage ended the run, which does not become
                the latest.
        """
        for name in list_stages():
            if name in self.run.config["stages"] and (is_complete or self._has_result(name)):
                for line in find_stage(name).finish(self.run, self.path):
                    terminal.print_line(line)
        has_report = (self.path / REPORT).is_file()  # its own
        self._link_recorded()
        results_folder.mark(self.path)  # the folders of further methods, too
        stages = self.run.config["stages"]
        is_latest = is_complete and all(
            find_stage(name).becomes_latest(self.run) for name in stages
        )
        if is_latest:
            self.is_latest = True
            link_latest(self.run.outputs, self.path)
        if self.notes:
            count = f"{len(self.notes)} note{'s' * (len(self.notes) > 1)}"
            file, whose = self.path / NOTES_FILE, "their" if len(self.notes) > 1 else "its"
            terminal.print_line(f"{'notes':<10} {count}, with {whose} names, in {file}")
        terminal.print_line(f"results    {self.path / REPORT if has_report else self.path}")
        if (remote := attached_to(self.run.outputs)) is not None:
            terminal.print_line(f"published  {remote.publish_run(self.path, is_latest)}")

    def _has_result(self, stage: str) -> bool:
        """Return whether a stage's result was published."""
        return (self.path / "stages" / stage).is_symlink()

    def _link_recorded(self) -> None:
        """Link the results of the run that run= names, and its pages.

        Then this one can be a checkpoint=, too, and `outputs/latest` still leads to a report.
        """
        if self.run.config["run"] is None:
            return
        for link in sorted((Path(self.run.config["run"]) / "stages").iterdir()):
            if not (self.path / "stages" / link.name).exists():
                _link(self.path / "stages" / link.name, link)
        for name in STAGES_OF_PAGES:
            result = self.path / "stages" / name
            for item in find_stage(name).publishes:
                page = self.path / item.path
                if (result / item.source).exists() and not page.exists():
                    _link(page, result / item.source)

    def discard_if_empty(self) -> None:
        """Delete the folder if the run was refused or stopped before it computed a result.

        After that it links to the result, so that `python -m pipeline clean` keeps it.
        """
        files = {path.name for path in self.path.iterdir()}
        stages = {path.name.partition("-")[0] for path in self.path.glob("stages/*")}
        made = {CONFIG_FILE, NOTES_FILE, "stages", results_folder.MARKER, LOCK}
        if not self.has_new_result and files <= made and stages <= {"train", "calibrate"}:
            shutil.rmtree(self.path)
            if (remote := attached_to(self.run.outputs)) is not None:
                remote.give_up_run(self.path)


def link_latest(outputs: Path, run: Path) -> None:
    """Let `latest` in a folder of outputs link to the folder of a run, atomically."""
    latest = outputs / "latest"
    for stale in outputs.glob(".latest.*.tmp"):
        with suppress(FileNotFoundError):  # another run removes it, too
            if time.time() - stale.lstat().st_mtime > STALE:
                stale.unlink()
    # Machines with a common disk may have processes of the same number.
    temporary = latest.with_name(f".latest.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(run, outputs))
    if latest.is_dir() and not latest.is_symlink():
        terminal.print_line(f"{latest} is a folder, not our link: left as it is")
        temporary.unlink()
    else:
        os.replace(temporary, latest)


def _link(link: Path, target: Path) -> None:
    """Make a relative symbolic link, and the folders above it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


def _print_text(text: str) -> None:
    """Print a text unless it is empty."""
    if stripped := text.rstrip("\n"):
        terminal.print_line(stripped)


SUMMARY = {
    ("gt_known_loc", 0.5, "fixed"): "GT-known@0.5 fixed",
    ("gt_known_loc", 0.5, "auto"): "auto",
    ("gt_known_loc", 0.5, "validation"): "validation",
    ("gt_known_loc", 0.5, "oracle"): "oracle",
    ("max_box_acc_v2", None, "oracle"): "MaxBoxAccV2",
    ("classification_top1", None, None): "top-1",
}


def format_summary(done: Sequence[JobOutcome]) -> str:
    """Format the main numbers of a sweep as a table.

    Args:
        done: what became of each job that has a run.

    Returns:
        A row for each job, which is named by the overrides that not all jobs have.
    """
    common = set.intersection(*(set(outcome.overrides) for outcome in done))
    rows = [["percent", *SUMMARY.values(), "images", "run"]]
    for outcome in done:
        assert outcome.run is not None
        path = outcome.run / "metrics.json"
        records = {
            (r["name"], r["iou"], (r["threshold"] or {}).get("kind")): r
            for r in (read_json(path) if path.is_file() else [])
            if r["class"] is None and r["method"] == outcome.method
        }
        shown = [records.get(key) for key in SUMMARY]
        cells = [f"{100 * r['value']:.1f}" if r is not None else "-" for r in shown]
        counts = dict.fromkeys(str(r["n"]) for r in shown if r is not None)
        cells.append("/".join(counts) or "-")
        name = " ".join(
            override.lstrip("+") for override in outcome.overrides if override not in common
        )
        rows.append([name, *cells, str(outcome.run)])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]),
                   *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1], strict=True)), row[-1]])
        for row in rows
    )  # fmt: skip


def _settings(run: Run) -> dict[str, Any]:
    """Return the configuration for config.yaml.

    With a checkpoint, the model is that of the checkpoint, and its path is resolved:
    `outputs/latest` soon links to another run. Addresses stand where they were given.
    """
    settings = dict(run.config)
    if settings["checkpoint"] is not None:
        settings["model"] = checkpoint.read_card(run.classifier)["model"]
        fetched = address_of(settings["checkpoint"])
        settings["checkpoint"] = fetched or str(Path(settings["checkpoint"]).resolve())
    if (remote := attached_to(run.outputs)) is not None:
        settings["outputs"] = remote.folder.address
    return settings
