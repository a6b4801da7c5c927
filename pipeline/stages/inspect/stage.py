"""Inspect: what a network looks for, as pictures.

Each of `inspect.views` is a choice of conf/visualize/, which gives sheets, numbers and pictures:

    classes.png      images that the network calls a class (pipeline/visualize/ascent.py)
    channels.png     images that excite one feature map, made in the same way
    dream.png        photographs in which a layer sees more of what it sees (deep_dream.py)
    features.png     the nine images of the data that excite a map most (feature_maps.py)
    first_order.png  how far the class score is what its gradient says (linearity.py)
    filters.png      the weights of the first convolution
    top5.png         the five most probable classes of some images, and a map for each
    <view>.json      the numbers of each; <view>_rise.png the way up of an ascent
    classes/<name>.png, channels/<number>.png, dream/<number>-<image>.png     each image alone

Everything is computed in float32, the maps of top5 in the run's precision, and leaves the network
as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, runtime, shards
from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.methods import fitting_split, prepare_method
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run, network_name
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.files import write_json
from pipeline.plotting.grids import save
from pipeline.protocols import View
from pipeline.types import ClassSelector, Explanation, ViewResult, ViewSubject

if TYPE_CHECKING:
    from torch import Tensor

PLAINLY_NONE = ("jitter", "blur", "variation")  # that plain has not


def cache_key(run: Run) -> dict[str, Any]:
    """Return all that can change the result."""
    options = run.config["inspect"]
    nodes = {name: complete_choice("visualize", name, options) for name in options["views"]}
    targets = [str(node["_target_"]).rpartition(".")[0] for node in nodes.values()]
    views = build_choices("visualize", options["views"], options).values()
    on_data = reads_data(views)
    # Maps are those of the most probable classes, whatever explain.target says.
    of_maps = {
        "source": run.sources(__name__, "saliency"),
        "saliency": run.methods[run.method],
        "views": [run.config["explain"][name] for name in ("flips", "scales")],
        "fitted_on": run.data.fingerprint(fitting_split(run)),
        "precision": run.precision,
    } if any(view.reads_maps for view in views) else None  # fmt: skip
    return {
        "source": run.sources(__name__, *(["data"] if on_data else [])) | hash_sources(targets),
        "checkpoint": checkpoint.fingerprint(run.checkpoint),
        "inspect": options,
        "views": nodes,
        "seed": run.config["seed"],
        "size": run.size,
        "data": [run.split, run.data.fingerprint(run.split)] if on_data else None,
        "maps": of_maps,
    }


def check(run: Run) -> None:
    """Refuse options that cannot be.

    Raises:
        UserError: The network does not know a class, plain has not what was asked for, there is no
            image, or an argument of a view does not fit.
    """
    options = run.config["inspect"]
    check_style(options)
    if any(channel < 0 for channel in options["channels"]):
        raise UserError(f"inspect.channels={options['channels']}: feature maps are counted from 0")
    on_data = reads_data(build_choices("visualize", options["views"], options).values())
    if on_data and not len(run.data.ids(run.split)):
        raise UserError(
            f"inspect: the split {run.split} has no image; see data.* and explain.split"
        )
    if run.config["checkpoint"] is not None and not on_data:
        # Where no image is read, a checkpoint need not fit any data set.
        check_classes(options["classes"], checkpoint.read_card(run.classifier)["classes"])
    else:
        check_classes(options["classes"], run.classes)


def check_style(options: Mapping[str, Any]) -> None:
    """Raise UserError where the plain style is given what only the pretty one has."""
    given = [name for name in PLAINLY_NONE if options[name] is not None]
    if options["style"] == "plain" and given:
        raise UserError(
            f"inspect.{given[0]}={options[given[0]]}: plain is the paper's L2 form alone; "
            "inspect.style=pretty has jitter, blur and variation"
        )


def check_classes(wanted: Sequence[Any], known: Sequence[Any]) -> None:
    """Raise UserError for a class that the network does not know."""
    names = [str(name) for name in known]
    for name in map(str, wanted):
        if name not in names:
            raise UserError(
                f"inspect.classes: no such class {name!r}; {suggest_choices(name, names)}"
            )


def reads_data(views: Iterable[View]) -> bool:
    """Return whether a view reads images of the split."""
    return any(view.reads_data for view in views)


def make(run: Run, folder: Path) -> None:
    """Write what each view gives."""
    options = run.config["inspect"]
    trained = checkpoint.load(run.checkpoint, run.device)

    def explain(images: Tensor, choose: ClassSelector) -> Explanation:
        method = prepare_method(run, trained)
        with runtime.autocast(run.device, run.precision):
            return method(trained.network, images, choose)

    batch_size = shards.inference_batch_size(run)
    subject = ViewSubject(
        trained=trained,
        network_name=network_name(run),
        device=run.device,
        size=run.size,
        seed=run.config["seed"],
        data=run.data,
        split=run.split,
        method=run.method,
        explain=explain,
        batch_size=batch_size,
        map_batches=BatchRunner(partial(shards.network_flow, run, run.split), trained, batch_size),
        show_progress=start_progress,
        compute_once=memoize(),
    )
    notes: list[str] = []
    views: Mapping[str, View] = build_choices("visualize", options["views"], options)
    for name, view in views.items():
        result = view(subject)
        write_view(folder, name, result)
        notes += [f"{name}: {note}" for note in result.notes]
    write_json(folder / "notes.json", notes, indent=1)


def write_view(folder: Path, name: str, result: ViewResult) -> None:
    """Write the sheets, numbers and single pictures of a view."""
    for suffix, sheet in result.sheets.items():
        save(folder / (f"{name}_{suffix}.png" if suffix else f"{name}.png"), sheet)
    for file, picture in result.pictures.items():
        save(folder / name / f"{file}.png", picture)
    if result.numbers is not None:
        write_json(folder / f"{name}.json", result.numbers, indent=1)


# -- what a view may ask for ---------------------------------------------------------------------

Flow = Callable[[Iterator[Sequence[int]]], Iterator[tuple[shards.Arrays, shards.Skipped]]]


@dataclass(frozen=True)
class BatchRunner:
    """Reads images and computes on them, a batch at a time.

    Args:
        flow_of: From a function on a batch of images to a flow of batches.
        trained: The network.
        size: Images of a batch.
    """

    flow_of: Callable[[Callable[[shards.PositionedExamples], shards.Arrays]], Flow]
    trained: checkpoint.Checkpoint
    size: int

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
            for piece, (arrays, _) in zip(pieces, flow(iter(pieces)), strict=True):
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
