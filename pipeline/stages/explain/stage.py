"""Stage explain: saliency maps of the requested classes in each image of a split.

Maps and classification are kept in shards, so that no later stage runs the network again. A method
that is fitted to training images (DDT) gets them with their labels; what is fitted is kept, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, terminal
from pipeline.engine.images import refuse_empty
from pipeline.engine.stage import Stage
from pipeline.engine.store import list_versions
from pipeline.errors import UserError
from pipeline.protocols import HasFiles
from pipeline.results.computed import Computed, write_taught
from pipeline.results.maps import OWN_RANGE, SEVERAL, find_marked, load_skipped
from pipeline.results.notes import load_notes, reading_notes, skipped_note, write_notes
from pipeline.results.shards import list_shards
from pipeline.saliency.targets import describe_cut
from pipeline.stages.explain.config import ExplainOptions

if TYPE_CHECKING:
    from pipeline.engine.reuse import EarlierImages, Stamps
    from pipeline.engine.run import Run
    from pipeline.types import Note


class Explain(Stage):
    """Saliency maps of a split."""

    name = "explain"
    after = ("train", "refine")
    needs = ("train",)
    per_method = True
    distributed = True
    options = ExplainOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {
            "source": run.sources(__name__, "data", "saliency"),
            "checkpoint": checkpoint.fingerprint(run.checkpoint),
            "saliency": run.methods[run.method],
            "target": run.targets(),
            "negatives": sorted(run.negatives),
            "views": [run.config["explain"][name] for name in ("flips", "scales", "colour")],
            "fitted_on": run.fit.fingerprint(),
            "split": run.split,
            "data": run.data.fingerprint(run.split),
            "reading": run.data.reading_record() if isinstance(run.data, HasFiles) else None,
            "size": run.size,
            "precision": run.precision,
            **self._several_key(run),
        }

    def _several_key(self, run: Run) -> dict[str, Any]:
        """Return the part of the key for networks whose classes do not exclude each other."""
        if checkpoint.read_answers(run.checkpoint) == "exclusive":
            return {}
        return {"min_probability": run.config["explain"]["min_probability"]}

    def _earlier(self, run: Run, folder: Path) -> tuple[EarlierImages | None, Stamps | None]:
        """Return the maps of the same images that an earlier run computed, and all stamps."""
        from pipeline.engine.reuse import find_earlier

        earlier, stamps = find_earlier(
            run.images(), folder.parent, run.cache_key(self.name), run.workers
        )
        if earlier is not None:
            terminal.print_line(
                f"explain: {earlier.count} of {len(run.images())} images are as they were: their "
                f"maps are those of {earlier.folder}"
            )
        return earlier, stamps

    def check(self, run: Run) -> None:
        """Raise UserError for impossible targets, views and methods, before hours of training."""
        _ = run.negatives  # refuses names of no class
        run.check_methods()
        refuse_empty(run.images(), self.name)

    def run(self, run: Run, folder: Path) -> None:
        """Write the maps.

        Raises:
            UserError: the split has no image.
        """
        from pipeline.engine import ranks, shards
        from pipeline.engine.backends import compiled, list_refusals, read_used
        from pipeline.engine.folds import FoldedNetworks
        from pipeline.engine.passes import SLOW, count_passes_of_first, fit_batch
        from pipeline.engine.reuse import join_in_order
        from pipeline.stages.explain.maps import explain_batch

        trained = checkpoint.load(run.checkpoint, run.device)
        method, targets = run.prepared_method(trained), run.targets()
        colour, images = run.config["explain"]["colour"], run.images()
        least = run.config["explain"]["min_probability"]
        refuse_empty(images, self.name)

        networks, negatives = FoldedNetworks.of(trained, images), run.negatives
        backgrounds = images.list_backgrounds()
        earlier, stamps = ranks.broadcast_value(lambda: self._earlier(run, folder))

        passes = count_passes_of_first(run.compute, method, trained, images)
        # The branch that classifies by the object has logits of its own.
        is_slow = passes >= SLOW and not trained.network.tells_objects

        def work(batch: shards.PositionedExamples) -> shards.Arrays:
            for position, _ in batch:
                if stamps is not None:
                    stamps.hash_file(images, position)
            return join_in_order([
                explain_batch(
                    network, method, targets, part, colour, negatives,
                    has_sets=images.is_multi_label, min_probability=least, is_slow=is_slow,
                    backgrounds=backgrounds,
                )
                for network, part in networks.split(batch)
            ])  # fmt: skip

        compute = fit_batch(run.compute, passes)
        whole = [trained.network, *(each.network for each in networks.of_fold)]
        count = passes * len(images)
        with compiled(whole, run.compute, count, run.size, folder) as active:
            shards.write_image_shards(images, compute, folder, "explain", work, earlier=earlier)
        if stamps is not None:
            stamps.join_ranks()
        if ranks.current_world().rank == 0:
            run.fit.keep(run.cache_key(self.name), folder)
            if stamps is not None:
                stamps.hash_files(images, range(len(images)), run.workers)
                stamps.write(folder)
            supervision = checkpoint.read_supervision(run.checkpoint)
            versions, backend = list_versions(), read_used(folder)
            Computed(run.precision, run.device.type, versions, supervision, backend).write(folder)
            write_notes(folder, list_refusals(active))
            write_taught(folder, trained.card.get("human", {}).get("content", ()))
            _check_skipped(folder, len(images))

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return a line on the supervision of the network, where it is not weak."""
        if Computed.read(result).supervision != "boxes":
            return []
        return [f"{'':<10} supervision: boxes, as the network learned from boxes of a person"]

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return which images could not be read, were read in part, or by a range of their own."""
        images = run.images()
        reasons = [why for _, why in sorted(load_skipped(result).items())]
        several, own_range = (
            [images.ids[position] for position in find_marked(result, mark)]
            for mark in (SEVERAL, OWN_RANGE)
        )
        cut = describe_cut(run.targets(), run.classes, run.negatives)
        return [
            *load_notes(result),
            *self._unlabelled_note(run),
            *([f"explain.target={cut}"] if cut else []),
            *skipped_note("explain", reasons, len(images), "have no map"),
            *reading_notes("explain", len(images), several, own_range),
        ]

    def _unlabelled_note(self, run: Run) -> list[Note]:
        """Return notes on images that are not explained for a label, as they have none."""
        from pipeline.ops.text import count_notes

        images = run.images()
        if not run.data.classes or "true" not in run.targets():
            return []
        others = [target for target in run.targets() if target != "true"]
        other_maps = f"maps and boxes of {', '.join(others)} alone" if others else "no map, no box"
        is_empty, is_background = images.labels < 0, images.backgrounds
        kinds = (
            (is_empty & ~is_background, "without label: maps and boxes are of the predicted class, "
             "as explain.target=true has no other"),
            (is_background, f"labelled as showing no class: {other_maps}, as explain.target=true "
             "has none"),
        )  # fmt: skip
        named = (
            ([images.ids[n] for n in chosen.nonzero()[0].tolist()], f"of {len(images)} {why}", "")
            for chosen, why in kinds
        )
        return count_notes(named, "image", where="explain")


def _check_skipped(folder: Path, count: int) -> None:
    """Raise UserError if all of `count` images were skipped."""
    skipped = load_skipped(folder)
    if len(skipped) == count:
        first = next(iter(skipped.values()))
        for shard in list_shards(folder):  # so that the next run reads the images again
            shard.unlink()
        raise UserError(f"explain: none of {count} images could be read; {first}")
