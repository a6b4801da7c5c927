"""The base class of stages, and the stages that have a YAML in conf/stage/.

A stage is a folder of pipeline/stages/ (or a user's module): stage.py with a subclass of `Stage`,
config.py with its options, and its helpers. The order of stages, the typed skeleton, `--help`, all
checks of ranges and the contents of a run's folder are derived from what a stage declares.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.engine import store
from pipeline.engine.choices import list_choices, locate, read_choice
from pipeline.errors import UserError, suggest_choices
from pipeline.ops.hashing import to_plain
from pipeline.ops.renamed import STAGES, describe_renaming
from pipeline.results.notes import load_notes

if TYPE_CHECKING:
    from pipeline.engine.run import Run

GROUP = "stage"  # the folder of conf/ that lists the stages


@dataclass(frozen=True)
class Published:
    """A file or folder of a stage's result that is published in the run's folder.

    Args:
        source: its path within the stage's result.
        target: its path within the run's folder; empty: as `source`.
        how: `copy` a file; `link` to a file or folder, "." being the result's folder; `append` a
            JSON list to that of the methods before.
        is_optional: whether a result need not have it.
    """

    source: str
    target: str = ""
    how: Literal["copy", "link", "append"] = "copy"
    is_optional: bool = False

    @property
    def path(self) -> str:
        """The path within the run's folder."""
        return self.target or self.source


class Stage(ABC):
    """A step of a run, whose result is a folder.

    Attributes:
        name: in `stages=[...]`, and the key of its options in the configuration.
        after: the stages that run before it, if they are in the same run.
        needs: the stages whose results it requires.
        per_method: whether it runs once for each of `explain.methods`.
        distributed: whether all processes of `runtime.devices` run it, each for its part.
        options: the dataclass of its options (pipeline/engine/options.py), if it has any.
        reads: keys at the top of the configuration that are refused in runs in which no stage
            reads them.
        publishes: the files of its result that are published in the run's folder.
        prints: a text file of its result that is printed on the terminal.
    """

    name: ClassVar[str]
    after: ClassVar[Sequence[str]] = ()
    needs: ClassVar[Sequence[str]] = ()
    per_method: ClassVar[bool] = False
    distributed: ClassVar[bool] = False
    options: ClassVar[type[Any] | None] = None
    reads: ClassVar[Sequence[str]] = ()
    publishes: ClassVar[Sequence[Published]] = ()
    prints: ClassVar[str | None] = None

    @abstractmethod
    def cache_key(self, run: Run) -> Mapping[str, Any]:
        """Return all that can change the result: JSON-like values, never an absolute path.

        Args:
            run: the run, for the method of the job.
        """

    def check(self, run: Run) -> None:  # noqa: B027
        """Check at start what the stage needs, which it could only refuse hours into the run.

        Args:
            run: the run, for the method of the job.

        Raises:
            UserError: what the stage needs is missing or wrong.
        """

    def is_finished(self, run: Run) -> bool:
        """Return whether the stage has its result already, so that nothing has to be checked.

        Args:
            run: the run, for the method of the job.
        """
        try:
            # Keys that are computed before the stages ran are not kept for later.
            key = to_plain(self.cache_key(replace(run, _keys={})))
        except UserError:  # it depends on a result that is not there
            return False
        return store.is_done(run.store.folder(self.name, key))

    def reads_key(self, key: str, stages: Sequence[str]) -> bool:
        """Return whether the stage reads a top-level key of the configuration.

        Args:
            key: one of `reads`.
            stages: the stages of the run.
        """
        return key in self.reads

    @abstractmethod
    def run(self, run: Run, folder: Path) -> None:
        """Write the result into its folder.

        Args:
            run: the run, for the method of the job.
            folder: the result's folder, which may hold what a killed run wrote.

        Raises:
            UserError: the result cannot be computed.
        """

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return what the stage did not use, repaired or replaced; by default from notes.json.

        Args:
            run: the run, for the method of the job.
            result: the folder of the stage's result.
        """
        return load_notes(result)

    def refuse(self, run: Run, result: Path) -> str | None:
        """Return why the run must not go on, once the result is published; None: it goes on.

        The run then ends with exit code 1.

        Args:
            run: the run, for the method of the job.
            result: the folder of the stage's result.
        """
        return None

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return lines to print when the result is published in the run's folder.

        Args:
            result: the folder of the stage's result.
            run_folder: the run's folder.
        """
        return ()

    def becomes_latest(self, run: Run) -> bool:
        """Return whether `outputs/latest` is to link to a run with this stage.

        Args:
            run: the run.
        """
        return True

    def finish(self, run: Run, run_folder: Path) -> Sequence[str]:
        """Complete the run's folder after all stages have run; return lines to print.

        Args:
            run: the run.
            run_folder: the run's folder.
        """
        return ()


@cache
def _stages(names: tuple[str, ...]) -> dict[str, Stage]:
    """Build the stages of these names, sorted in the order in which they run."""
    built = {name: _build(name) for name in names}
    before = {name: {a for a in stage.after if a in built} for name, stage in built.items()}
    ready = [name for name, earlier in before.items() if not earlier]
    heapq.heapify(ready)
    ordered: dict[str, Stage] = {}
    while ready:
        name = heapq.heappop(ready)
        ordered[name] = built[name]
        for other, earlier in before.items():
            if name in earlier:
                earlier.remove(name)
                if not earlier:
                    heapq.heappush(ready, other)
    if len(ordered) < len(built):
        circle = ", ".join(sorted(set(built) - set(ordered)))
        raise UserError(f"conf/{GROUP}: these stages wait for one another by `after`: {circle}")
    return ordered


def _build(name: str) -> Stage:
    """Build the stage that a YAML of conf/stage/ names."""
    target = str(read_choice(GROUP, name)["_target_"])
    kind = locate(f"{GROUP} {name}", target)
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise UserError(f"{GROUP} {name}: {target} is no subclass of pipeline.engine.stage.Stage")
    if kind.name != name:
        raise UserError(f"{GROUP} {name}: {target} calls itself {kind.name!r}; expected {name!r}")
    return kind()


def list_stages() -> tuple[str, ...]:
    """Return the names of all stages in the order in which they run."""
    return tuple(_stages(tuple(list_choices(GROUP))))


def find_stage(name: str) -> Stage:
    """Return the stage of a name.

    Raises:
        UserError: there is no such stage.
    """
    stages = _stages(tuple(list_choices(GROUP)))
    if name not in stages:
        renamed = describe_renaming(STAGES, name)
        known = suggest_choices(name, stages)
        raise UserError(f"stages: unknown stage {name!r}{renamed or f'; {known}'}")
    return stages[name]


def all_stages() -> Sequence[Stage]:
    """Return all stages in the order in which they run."""
    return [find_stage(name) for name in list_stages()]


def stages_between(first: str, wanted: Sequence[str]) -> list[str]:
    """Return the stages from `first` on that are wanted or whose results wanted stages need.

    Args:
        first: the first stage to return.
        wanted: the stages of a run.

    Returns:
        Their names in the order in which they run, up to the last wanted stage.
    """
    needed = set(wanted)
    for name in reversed(list_stages()):
        if name in needed:
            needed.update(find_stage(name).needs)
    order = list_stages()
    last = max(order.index(name) for name in wanted)
    return [
        name
        for n, name in enumerate(order)
        if order.index(first) <= n <= last and name in needed | {first}
    ]
