"""The jobs of a sweep, which Hydra's launchers run here, in other processes or on other machines.

Launchers hand back no results of jobs, and what jobs print elsewhere is lost. So a job elsewhere
writes its lines into a log, and what became of it into a record, in a folder of the sweep. From
the records this process prints what is finished while it waits, and the table at the end.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.engine import terminal
from pipeline.engine.choices import EXTRA_FOLDER
from pipeline.engine.latest import read_latest_links, resolve_latest_links
from pipeline.engine.launchers import BASIC, chosen_launcher, is_sweep
from pipeline.engine.store import LOCK
from pipeline.errors import FailedJob, RefusedRun, UserError
from pipeline.formats.files import read_json, write_json

if TYPE_CHECKING:
    from pipeline.engine.run_folder import RunFolder

FOLDER = ".sweep"  # in the folder of outputs; conf/config.yaml names it, too
SECONDS_TO_LOOK = 0.5  # between two looks at the records
SECONDS_OF_SILENCE = 30.0  # then a line says that jobs are running
ERRORS: dict[str, type[UserError]] = {
    error.__name__: error for error in (UserError, RefusedRun, FailedJob)
}
"""The errors of a job that are a message, by the name in its record."""


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job.

    Attributes:
        number: of the job, from 0.
        overrides: of the command line, for this job.
        run: the run's folder; None where there is none.
        method: the main saliency method of the run.
        outputs: the folder of outputs.
        is_latest: whether the run became the latest.
        error: why the job failed; None: it did not.
    """

    number: int
    overrides: Sequence[str]
    run: Path | None = None
    method: str = ""
    outputs: Path = Path("outputs")
    is_latest: bool = False
    error: Exception | None = None

    @classmethod
    def of(cls, number: int, overrides: Sequence[str], folder: RunFolder | None) -> JobOutcome:
        """Return the outcome of a job that has finished."""
        if folder is None:
            return cls(number, overrides)
        run = folder.run
        return cls(number, overrides, folder.path, run.method, run.outputs, folder.is_latest)


@dataclass
class Sweep:
    """What Hydra calls for each job of a command; a command without `-m` has one job.

    It is pickled where a launcher runs jobs elsewhere: each copy runs a job and records it. Here
    the jobs after a failed one are not run, as nothing else runs meanwhile.

    Attributes:
        go: runs the stages of a configuration.
        describe: returns the message for an error of the disk, None for any other error.
        arguments: of the command line.
        links: what paths through `outputs/latest` led to before the first job.
        place: the folder of records and logs; None where jobs run here.
        here: the current folder.
        is_copy: whether this is a copy in another process.
        environment: variables that a copy sets.
        outcomes: of the jobs that were run here.
        left_out: the number of jobs that were not run after a failed one.
    """

    go: Callable[[Any], RunFolder | None]
    describe: Callable[[OSError], str | None]
    arguments: Sequence[str]
    links: Mapping[str, str] = field(init=False)
    place: Path | None = field(init=False, default=None)
    here: str = field(init=False, default_factory=os.getcwd)
    is_copy: bool = field(init=False, default=False)
    environment: Mapping[str, str] = field(init=False, default_factory=dict)
    outcomes: list[JobOutcome] = field(init=False, default_factory=list)
    left_out: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Read the links through `latest`, and create the folder of records where it is needed."""
        self.links = read_latest_links(self.arguments)
        self.environment = {key: os.environ[key] for key in (EXTRA_FOLDER,) if key in os.environ}
        if is_sweep(self.arguments) and chosen_launcher(self.arguments) != BASIC:
            self.place = _create_folder(self.arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process has."""
        return {**self.__dict__, "is_copy": True, "outcomes": [], "left_out": 0}

    def __call__(self, config: Any) -> None:
        """Run the job that Hydra composed a configuration of."""
        from hydra.core.hydra_config import HydraConfig

        job = HydraConfig.get()
        overrides = [str(override) for override in job.overrides.task]
        if not is_sweep(self.arguments):
            self.outcomes.append(self._run(config, 0, overrides))
        elif self.is_copy:
            self._run_elsewhere(config, int(job.job.num), overrides)
        elif any(outcome.error is not None for outcome in self.outcomes):
            self.left_out += 1
        else:
            terminal.print_line(f"\n-- {' '.join(overrides)}")
            self.outcomes.append(self._run(config, int(job.job.num), overrides))

    def _run(self, config: Any, number: int, overrides: Sequence[str]) -> JobOutcome:
        """Run a job in this process; Hydra would print its error itself, so it is kept."""
        try:
            if is_sweep(self.arguments):
                resolve_latest_links(config, self.links)
            return JobOutcome.of(number, overrides, self.go(config))
        except Exception as error:
            return JobOutcome(number, overrides, error=error)

    def _run_elsewhere(self, config: Any, number: int, overrides: Sequence[str]) -> None:
        """Run a job in another process or on another machine, with its log and its record.

        Raises:
            UserError: the folder of the sweep is not on this machine.
        """
        assert self.place is not None
        if not (Path(self.here).is_dir() and self.place.is_dir()):
            raise UserError(
                f"{self.place}: no such folder on {socket.gethostname()}; a sweep on several "
                "machines needs a folder that all have at the same path, for the current folder "
                "and for outputs=DIR"
            )
        os.chdir(self.here)
        os.environ.update(self.environment)
        terminal.forget_notes()
        begun = time.time()
        record = {"number": number, "overrides": overrides, "begun": begun,
                  "host": socket.gethostname(), "pid": os.getpid()}  # fmt: skip
        write_json(self.place / f"{number}.json", record)
        with _log_to(self.place / f"{number}.log"):
            outcome = self._run(config, number, overrides)
            if outcome.error is not None:
                traceback.print_exception(outcome.error)
        ended = {"seconds": time.time() - begun, **_record_outcome(outcome, self.describe)}
        write_json(self.place / f"{number}.json", record | ended)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Print, while the block runs, which jobs elsewhere are finished; then note them all.

        What a launcher raises is noted, too, so that the table of the other jobs is printed.
        """
        if self.place is None:
            yield
            return
        name = chosen_launcher(self.arguments)
        terminal.print_line(f"sweep      hydra/launcher={name}; logs of jobs: {self.place}/*.log")
        end = threading.Event()
        thread = threading.Thread(target=self._follow, args=(self.place, end), daemon=True)
        thread.start()
        problem: Exception | None = None
        with FileLock(self.place / LOCK):  # `clean` keeps what is locked
            try:
                yield
            except Exception as error:
                problem = error
            finally:
                end.set()
                thread.join()
        self._note_records(self.place, problem)
        if problem is None or any(outcome.error is not None for outcome in self.outcomes):
            return
        if not isinstance(problem, UserError):
            problem = FailedJob(
                f"hydra/launcher={name}: {_describe_error(problem)}; jobs that are missing in the "
                "table did not begin, and the same command goes on from here"
            )
        self.outcomes.append(JobOutcome(len(self.outcomes), [], error=problem))

    def _follow(self, place: Path, end: threading.Event) -> None:
        """Print a line for each job that is finished, until `end` is set."""
        printed: set[int] = set()
        spoke = time.monotonic()
        while True:
            is_last_look = end.wait(SECONDS_TO_LOOK)
            records = _read_records(place)
            for number, record in records.items():
                if "seconds" in record and number not in printed:
                    printed.add(number)
                    spoke = time.monotonic()
                    terminal.print_line(self._format_job(record))
            if is_last_look:
                return
            if time.monotonic() > spoke + SECONDS_OF_SILENCE:
                spoke = time.monotonic()
                running, done = len(records) - len(printed), len(printed)
                terminal.print_line(f"sweep      jobs: {running} running, {done} finished")

    def _format_job(self, record: Mapping[str, Any]) -> str:
        """Format the line of a finished job."""
        is_failed = record["error"] is not None
        text = record["message"] if is_failed else record["run"] or ""
        name, seconds = self.name_job(record["overrides"]), record["seconds"]
        return f"{'failed' if is_failed else 'done':<10} {name}  {seconds:.0f} s  {text}".rstrip()

    def name_job(self, overrides: Sequence[str]) -> str:
        """Return the overrides of a job that are not those of all jobs."""
        own = [override for override in overrides if override not in self.arguments]
        return " ".join(override.lstrip("+") for override in own or overrides)

    def _note_records(self, place: Path, problem: Exception | None) -> None:
        """Note what the jobs elsewhere have recorded, by their numbers."""
        for number, record in sorted(_read_records(place).items()):
            log = place / f"{number}.log"
            self.outcomes.append(_read_outcome(record, log, problem))
        # Logs are kept where they say more than the folder of the run.
        if all(outcome.run is not None for outcome in self.outcomes):
            shutil.rmtree(place, ignore_errors=True)

    def finish(self) -> None:
        """Print the table of a sweep, and raise the error of a job that failed.

        The last job whose run can be the latest becomes it, whichever was finished last.

        Raises:
            FailedJob: a job was killed, or failed by a defect.
            RefusedRun: a stage ended a job on purpose.
            UserError: a job cannot be run.
        """
        done = [outcome for outcome in self.outcomes if outcome.run is not None]
        if len(done) > 1:
            from pipeline.engine.run_folder import format_summary, link_latest

            if self.place is not None:
                for outcome in [outcome for outcome in done if outcome.is_latest][-1:]:
                    assert outcome.run is not None
                    link_latest(outcome.outputs, outcome.run)
            terminal.print_line(f"\n{format_summary(done)}")
        failed = [outcome for outcome in self.outcomes if outcome.error is not None]
        if failed:
            raise self._combine_errors(failed)

    def _combine_errors(self, failed: Sequence[JobOutcome]) -> Exception:
        """Return the error of a command: of one job as it is, in a sweep with the job's name."""
        first = failed[0].error
        assert first is not None
        if not is_sweep(self.arguments) or not isinstance(first, UserError):
            return first
        lines = [
            ": ".join(
                part for part in (self.name_job(outcome.overrides), str(outcome.error)) if part
            )
            for outcome in failed
        ]
        if len(failed) > 1:
            lines.insert(0, f"{len(failed)} of {len(self.outcomes)} jobs failed")
        if self.left_out:
            lines.append(f"jobs that were not run after it: {self.left_out}")
        return type(first)("\n".join(lines))


def _create_folder(arguments: Sequence[str]) -> Path:
    """Create the folder of a sweep's records, in the folder of outputs, and return its path."""
    given = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("outputs=")]
    is_swept_or_remote = given and ("," in given[-1] or "://" in given[-1])
    outputs = Path(given[-1].strip("'\"") if given and not is_swept_or_remote else "outputs")
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{socket.gethostname()}_{os.getpid()}"
    folder = outputs.absolute() / FOLDER / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"outputs={outputs}: cannot be written to ({error.strerror}); outputs=DIR writes "
            "elsewhere"
        ) from None
    return folder


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write what this process and those that it starts print into a file, at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(number) for number in (1, 2)]
    try:
        with path.open("a", encoding="utf-8", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with redirect_stdout(log), redirect_stderr(log):
                yield
    finally:
        for number, copy in zip((1, 2), before, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _record_outcome(
    outcome: JobOutcome, describe: Callable[[OSError], str | None]
) -> dict[str, Any]:
    """Return an outcome as JSON can hold it; an error as the name of its class and a message."""
    error, kind, message = outcome.error, None, None
    if isinstance(error, OSError) and (message := describe(error)) is not None:
        kind = UserError.__name__
    elif isinstance(error, UserError):
        kind = next(name for name in reversed(ERRORS) if isinstance(error, ERRORS[name]))
        message = str(error)
    elif error is not None:
        kind, message = FailedJob.__name__, f"{_describe_error(error)}; the traceback is in its log"
    return {
        "run": None if outcome.run is None else str(outcome.run),
        "method": outcome.method,
        "outputs": str(outcome.outputs),
        "is_latest": outcome.is_latest,
        "error": kind,
        "message": message,
    }


def _read_outcome(record: Mapping[str, Any], log: Path, problem: Exception | None) -> JobOutcome:
    """Return the outcome that a job elsewhere recorded.

    Args:
        record: of the job.
        log: where it printed.
        problem: what the launcher raised.
    """
    number, overrides = record["number"], record["overrides"]
    if "seconds" not in record:
        why = "" if problem is None else f" ({_describe_error(problem)})"
        lost = FailedJob(
            f"its process {record['pid']} on {record['host']} ended without a result{why}; see "
            f"{log}; the same command goes on from here"
        )
        return JobOutcome(number, overrides, error=lost)
    if record["error"] is not None:
        return JobOutcome(number, overrides, error=ERRORS[record["error"]](record["message"]))
    run = None if record["run"] is None else Path(record["run"])
    outputs, is_latest = Path(record["outputs"]), bool(record["is_latest"])
    return JobOutcome(number, overrides, run, record["method"], outputs, is_latest)


def _describe_error(error: Exception) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or ["without a message"]
    return f"{type(error).__name__}: {lines[0]}"


def _read_records(place: Path) -> dict[int, dict[str, Any]]:
    """Return the records of the jobs that have begun, by their numbers."""
    return {int(path.stem): read_json(path) for path in place.glob("*.json")}
