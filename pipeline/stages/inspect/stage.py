"""Stage inspect: pictures of what a network responds to.

Each of `inspect.views` is a choice of conf/visualize/, which returns sheets, numbers and pictures:

    classes.png      images that the network calls a class (pipeline/visualize/ascent.py)
    channels.png     images with a high activation of a feature map, made in the same way
    dream.png        photographs changed so that a layer responds more to them (deep_dream.py)
    features.png     nine images of the data with the strongest activations (feature_maps.py)
    first_order.png  how well the gradient predicts the class score (linearity.py)
    filters.png      the weights of the first convolution
    top5.png         the five most probable classes of some images, and a map for each
    <view>.json      the numbers of each; <view>_rise.png the scores over the steps of an ascent
    classes/<name>.png, channels/<number>.png, dream/<number>-<image>.png     each image alone

Everything is computed in float32, but the maps of top5 in the run's precision. The network is not
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint
from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.images import refuse_empty
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.results.notes import skipped_note, write_notes
from pipeline.stages.inspect.config import InspectOptions

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.run import Run
    from pipeline.protocols import View
    from pipeline.types import ClassSelector, Explanation


class Inspect(Stage):
    """Pictures of what a network looks for."""

    name = "inspect"
    after = ("refine", "explain", "draw", "audit")
    needs = ("train",)
    options = InspectOptions
    publishes = (Published(".", "inspected", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        options = run.config["inspect"]
        nodes = {name: complete_choice("visualize", name, options) for name in options["views"]}
        targets = [str(node["_target_"]).rpartition(".")[0] for node in nodes.values()]
        views = self._views(run).values()
        on_data = any(view.reads_data for view in views)
        source = run.sources(__name__, *(["data"] if on_data else []), drawing=True)
        return {
            "source": source | hash_sources(targets, drawing=True),
            "checkpoint": checkpoint.fingerprint(run.checkpoint),
            "inspect": options,
            "views": nodes,
            "seed": run.config["seed"],
            "size": run.size,
            "data": [run.split, run.images().fingerprint()] if on_data else None,
            "maps": self._maps_key(run) if any(view.reads_maps for view in views) else None,
        }

    def _maps_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change maps; they do not depend on explain.target."""
        return {
            "source": run.sources(__name__, "saliency"),
            "saliency": run.methods[run.method],
            "views": [run.config["explain"][name] for name in ("flips", "scales")],
            "fitted_on": run.fit.images.fingerprint(),
            "precision": run.precision,
        }

    def _views(self, run: Run) -> dict[str, View]:
        """Build the views that the options name."""
        options = run.config["inspect"]
        return build_choices("visualize", options["views"], options)

    def check(self, run: Run) -> None:
        """Raise UserError for unknown classes, options that the style lacks, or no images."""
        from pipeline.stages.inspect.views import check_classes, check_style

        options = run.config["inspect"]
        check_style(options)
        if any(channel < 0 for channel in options["channels"]):
            raise UserError(
                f"inspect.channels={options['channels']}: feature maps are counted from 0"
            )
        on_data = any(view.reads_data for view in self._views(run).values())
        if on_data:
            refuse_empty(run.images(), self.name)
        if run.config["checkpoint"] is not None and not on_data:
            # Without images, the checkpoint's classes need not be those of a data set.
            check_classes(options["classes"], checkpoint.read_card(run.classifier)["classes"])
        else:
            check_classes(options["classes"], run.classes)

    def run(self, run: Run, folder: Path) -> None:
        """Write the sheets, numbers and pictures of all views."""
        from pipeline.engine import shards
        from pipeline.stages.inspect import views
        from pipeline.types import ViewSubject

        trained = checkpoint.load(run.checkpoint, run.device)
        compute = run.compute

        def explain(images: Tensor, choose: ClassSelector) -> Explanation:
            method = run.prepared_method(trained)
            with compute.autocast():
                return method(trained.network, images, choose)

        flow_of = partial(shards.network_flow, run.images(), compute)
        map_batches = views.BatchRunner(flow_of, trained, compute.batch)
        subject = ViewSubject(
            trained=trained,
            network_name=checkpoint.network_name(run.checkpoint),
            device=run.device,
            size=run.size,
            seed=run.config["seed"],
            data=run.data,
            split=run.split,
            method=run.method,
            explain=explain,
            batch_size=compute.batch,
            map_batches=map_batches,
            show_progress=views.start_progress,
            compute_once=views.memoize(),
            skipped=map_batches.skipped,
        )
        notes: list[str] = []
        for name, view in self._views(run).items():
            result = view(subject)
            views.write_view(folder, name, result)
            notes += [f"inspect: {name}: {note}" for note in result.notes]
        unread = [reason for _, reason in sorted(map_batches.skipped.items())]
        why = "are in no picture"
        notes += skipped_note("inspect", unread, len(run.images()), why)
        write_notes(folder, notes)

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return lines that name the sheets."""
        sheets = sorted((run_folder / "inspected").glob("*.png"))
        return [f"sheet      {sheet}" for sheet in sheets]
