"""Inspect: what a network looks for, as pictures.

Each of `inspect.views` is a file of inspect_views/, which writes a sheet and its numbers:

    classes.png      images that the network calls a class (pipeline/visualize/ascent.py)
    channels.png     images that excite one feature map, made in the same way
    dream.png        photographs in which a layer sees more of what it sees (inspect/dream.py)
    features.png     the nine images of the data that excite a map most (inspect_features.py)
    first_order.png  how far the class score is what its gradient says (inspect/first_order.py)
    filters.png      the weights of the first convolution
    top5.png         the five most probable classes of some images, and a map for each
    <view>.json      the numbers of each; <view>_rise.png the way up of an ascent
    classes/<name>.png, channels/<number>.png, dream/<number>-<image>.png     each image alone

Everything is computed in float32 and leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.engine import checkpoint
from pipeline.engine.run import Run
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.files import write_json
from pipeline.stages.inspect.inspection import Inspection

VIEWS = "pipeline.stages.inspect.views"
PLAINLY_NONE = ("jitter", "blur", "variation")  # that plain has not


def cache_key(run: Run) -> dict[str, Any]:
    views = run.config["inspect"]["views"]
    on_data = reads_data(run)
    source = run.sources(__name__, *(["data"] if on_data else []), drawing=True)
    for view in views:
        source |= run.sources(f"{VIEWS}.{view}", drawing=True)
    return {
        "source": source,
        "checkpoint": checkpoint.fingerprint(run.checkpoint),
        "inspect": run.config["inspect"],
        "seed": run.config["seed"],
        "size": run.size,
        "data": [run.split, run.data.fingerprint(run.split)] if on_data else None,
        "views": {view: _view(view).cache_key(run) for view in views if _has_parts(view)},
    }


def _view(name: str) -> Any:
    return import_module(f"{VIEWS}.{name}")


def _has_parts(view: str) -> bool:
    return hasattr(_view(view), "cache_key")


def reads_data(run: Run) -> bool:
    options = run.config["inspect"]
    return any(_view(view).reads_data(options) for view in options["views"])


def check(run: Run) -> None:
    """Raises UserError for a class that the network does not know, and for what plain has not."""
    options = run.config["inspect"]
    if options["style"] == "plain":
        given = [name for name in PLAINLY_NONE if options[name] is not None]
        if given:
            raise UserError(
                f"inspect.{given[0]}={options[given[0]]}: plain is the paper's L2 form alone; "
                "inspect.style=pretty has jitter, blur and variation"
            )
    if any(channel < 0 for channel in options["channels"]):
        raise UserError(f"inspect.channels={options['channels']}: feature maps are counted from 0")
    if reads_data(run) and not len(run.data.ids(run.split)):
        raise UserError(
            f"inspect: the split {run.split} has no image; see data.* and explain.split"
        )
    names = names_of(run)
    for given_name in map(str, options["classes"]):
        if given_name not in names:
            raise UserError(
                f"inspect.classes: no such class {given_name!r}; "
                f"{suggest_choices(given_name, names)}"
            )


def names_of(run: Run) -> Sequence[str]:
    """The classes; where no image is read, a checkpoint need not fit any data set."""
    if run.config["checkpoint"] is not None and not reads_data(run):
        return [str(name) for name in checkpoint.read_card(run.classifier)["classes"]]
    return run.classes


def make(run: Run, folder: Path) -> None:
    inspection = Inspection(run, checkpoint.load(run.checkpoint, run.device), folder)
    notes: list[str] = []
    for view in run.config["inspect"]["views"]:
        notes += _view(view).make(inspection)
    write_json(folder / "notes.json", notes, indent=1)
