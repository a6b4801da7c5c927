"""The functions that views of stage inspect may call; checks of options; writing of results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, runtime, shards
from pipeline.engine.progress import show_progress
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.files import write_json
from pipeline.ops.text import to_nfc
from pipeline.plotting.grids import save_png
from pipeline.types import ViewResult

if TYPE_CHECKING:
    from torch import Tensor

PRETTY_OPTIONS = ("jitter", "blur", "variation")  # that the plain style lacks


def check_style(options: Mapping[str, Any]) -> None:
    """Raise UserError if the plain style is given options of the pretty style."""
    given = [name for name in PRETTY_OPTIONS if options[name] is not None]
    if options["style"] == "plain" and given:
        raise UserError(
            f"inspect.{given[0]}={options[given[0]]}: plain is the paper's L2 form alone; "
            "inspect.style=pretty has jitter, blur and variation"
        )


def check_classes(wanted: Sequence[Any], known: Sequence[Any]) -> None:
    """Raise UserError for a class that the network does not know."""
    names = [to_nfc(str(name)) for name in known]
    for name in (to_nfc(str(name)) for name in wanted):
        if name not in names:
            raise UserError(
                f"inspect.classes: no such class {name!r}; {suggest_choices(name, names)}"
            )


def write_view(folder: Path, name: str, result: ViewResult) -> None:
    """Write the sheets, numbers and single pictures of a view."""
    for suffix, sheet in result.sheets.items():
        save_png(folder / (f"{name}_{suffix}.png" if suffix else f"{name}.png"), sheet)
    for file, picture in result.pictures.items():
        save_png(folder / name / f"{file}.png", picture)
    if result.numbers is not None:
        write_json(folder / f"{name}.json", result.numbers, indent=1)


# -- functions that a view may call --------------------------------------------------------------

Flow = Callable[[Iterator[Sequence[int]]], Iterator[tuple[shards.Arrays, shards.Skipped]]]


@dataclass(frozen=True)
class BatchRunner:
    """Reads images and computes on them, batch by batch.

    Args:
        flow_of: From a function on a batch of images to a flow of batches.
        trained: The network.
        size: Images in a batch.
        skipped: Filled with the images that cannot be read: why, by position.
    """

    flow_of: Callable[[Callable[[shards.PositionedExamples], shards.Arrays]], Flow]
    trained: checkpoint.Checkpoint
    size: int
    skipped: dict[int, str] = field(default_factory=dict)

    def __call__(
        self,
        title: str,
        positions: Sequence[int],
        work: Callable[[Sequence[int], Tensor], shards.Arrays],
    ) -> Iterator[shards.Arrays]:
        """Yield what `work` returns of each batch, in order; see ViewSubject.map_batches."""

        def compute(batch: shards.PositionedExamples) -> shards.Arrays:
            images = self.trained.tensor(shards.stack_pixels(batch))
            return work([position for position, _ in batch], images)

        pieces = list(runtime.split_into_batches(positions, self.size))
        flow = self.flow_of(compute)
        with start_progress(title, len(positions), "images") as advance:
            for piece, (arrays, skipped) in zip(pieces, flow(iter(pieces)), strict=True):
                self.skipped.update(skipped)
                if arrays:
                    yield arrays
                advance(len(piece))


def start_progress(
    title: str, total: int, unit: str
) -> AbstractContextManager[Callable[[int], None]]:
    """Return the progress bar of a view."""
    return show_progress(f"inspect: {title}", total, unit=unit)


def memoize() -> Callable[[Hashable, Callable[[], Any]], Any]:
    """Return a function that computes the value of each key once."""
    values: dict[Hashable, Any] = {}

    def compute_once(key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in values:
            values[key] = compute()
        return values[key]

    return compute_once
