"""Comparison of teachers of stage refine: what they cost, and the head that learns from each.

For each seed the classifier is trained, and each teacher labels the same training images; a
localization head learns from the pseudo-labels of all of them, or of fewer. Heads are scored on all
images that have boxes, which nothing else reads. A map of the same view of an image is computed
once for all teachers.

    ./scripts/accuracy teacher sets=cub30 teachers=layercam_multiscale,layercam_scales
    ./scripts/accuracy teacher sets=cub30 teachers=layercam_scales images=100,200,400,800

V2           MaxBoxAccV2 in percent, the mean over seeds. Behind it is the difference to the first
             teacher with the most images, in points, with its 95 % interval over images: the same
             images are drawn for both, and the heads of all seeds are scored on them; then the
             difference of each seed
A            held-out agreement of pseudo-masks and predictions (pipeline/stages/refine)
cost         processor time of the pseudo-labels of an image in ms (of these in the system; page
             faults), the median of interleaved repetitions with one thread, and that of the first
             teacher divided by it
"""

from __future__ import annotations

import hashlib
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.data.unannotated import with_annotations
from pipeline.engine import checkpoint, runtime, shards
from pipeline.engine.choices import instantiate, read_choice
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.metric.components import THRESHOLDS, curves
from pipeline.model.foreground import list_pyramid_layers
from pipeline.ops import bootstrap
from pipeline.ops.maps import frame_size, upsample
from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.average import average_maps
from pipeline.saliency.views import Views
from pipeline.stages.refine.localization_head import FittedHead, HeadFitter
from pipeline.stages.refine.pseudo_labels import PseudoLabeler, PseudoLabels, choose_positions
from pipeline.stages.refine.stage import build_segmenter
from pipeline.types import ClassSelector, Explanation, GroundTruth
from scripts.measure.records import Record
from scripts.measure.runs import CUB, IMAGENETTE, compose

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64

SETS: dict[str, tuple[str, ...]] = {
    "cub30": CUB,
    "imagenette": IMAGENETTE,
    "shapes": ("data=shapes",),
}
IOUS = (0.3, 0.5, 0.7)  # of MaxBoxAccV2
TIMED_IMAGES, REPETITIONS = 12, 3
SAMPLES = 1000  # resamples of an interval


@dataclass(frozen=True)
class Options:
    """What is compared.

    Attributes:
        sets: names of SETS.
        teachers: choices of `saliency@refine.teacher=`; the first is what others are compared with.
        images: how many training images are learned from; empty: all that refine.images gives.
        seeds: of training.
        outputs: where networks and pseudo-labels are kept; None: in a temporary folder.
        overrides: of all runs.
    """

    sets: Sequence[str]
    teachers: Sequence[str]
    images: Sequence[int]
    seeds: Sequence[int]
    outputs: str | None
    overrides: Sequence[str]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        """Parse `key=value` arguments; those of no attribute are overrides of the runs.

        Raises:
            UserError: a set is not known.
        """
        given = dict(argument.split("=", 1) for argument in arguments)
        sets = given.pop("sets", "cub30").split(",")
        if unknown := set(sets) - set(SETS):
            raise UserError(f"sets={','.join(sorted(unknown))}: expected {', '.join(SETS)}")
        teachers = given.pop("teachers", "layercam_multiscale,layercam_scales").split(",")
        images = [int(count) for count in given.pop("images", "").split(",") if count]
        seeds = [int(seed) for seed in given.pop("seeds", "0,1,2").split(",")]
        outputs = given.pop("outputs", None)
        overrides = [f"{key}={value}" for key, value in given.items()]
        return cls(sets, teachers, images, seeds, outputs, overrides)


class KeptMaps:
    """A method that keeps the maps of images that it has seen, for teachers that share views."""

    def __init__(self, method: SaliencyMethod) -> None:
        self.method = method
        self._kept: dict[tuple[bytes, int], Float32[np.ndarray, "h w"]] = {}

    def __call__(
        self, network: Network, images: Float[torch.Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Return the maps of one class of each image; the logits, which are not read, are zeros."""
        logits = torch.zeros(len(images), len(network.classes))
        classes = choose(logits)
        keys = [
            (hashlib.sha256(image.contiguous().numpy().tobytes()).digest(), int(label))
            for image, label in zip(images.cpu(), classes[:, 0], strict=True)
        ]
        if any(key not in self._kept for key in keys):
            maps = self.method(network, images, lambda _: classes).maps[:, 0]
            self._kept.update(zip(keys, maps.float().cpu().numpy(), strict=True))
        found = np.stack([self._kept[key] for key in keys])[:, None]
        return Explanation(torch.from_numpy(found).to(images.device), classes, logits)


@dataclass(frozen=True)
class Scored:
    """A localization head of a seed, scored.

    Attributes:
        fitted: the head.
        learned_from: how many pseudo-labels it could learn from.
        right: whether the box of each scored image is right, at each IoU and threshold.
    """

    fitted: FittedHead
    learned_from: int
    right: Bool[np.ndarray, "n 3000"]


@dataclass(frozen=True)
class Cost:
    """The cost of the pseudo-labels of an image.

    Attributes:
        seconds: processor time.
        system: the part of it in the system.
        faults: pages that the system gave.
    """

    seconds: float
    system: float
    faults: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """A data set with a classifier of one seed, on which teachers are compared.

    Args:
        run: its `refine.teacher` is not used.
        trained: the classifier.
        folder: where pseudo-labels are written.
        kept: the maps of each method that was asked, by its configuration.
    """

    run: Run
    trained: checkpoint.Checkpoint
    folder: Path
    kept: dict[str, KeptMaps]

    @classmethod
    def train(cls, name: str, options: Options, seed: int, outputs: str) -> Study:
        """Train the classifier of a seed, or find it in `outputs`."""
        overrides = [*SETS[name], *options.overrides, f"seed={seed}", f"outputs={outputs}"]
        run = compose("best", *overrides)
        trained = checkpoint.load(run.get_or_create("train")[0], run.device)
        folder = Path(outputs) / "teachers" / name / f"seed{seed}"
        return cls(run=run, trained=trained, folder=folder, kept={})

    def score(self, teachers: Sequence[str], counts: Sequence[int]) -> list[Scored]:
        """Fit and score the head of each teacher with so many images each, in this order."""
        heads, sizes = [], []
        for teacher in teachers:
            labels = self._label(teacher)
            for count in counts or [len(self.run.images("train"))]:
                some = labels.select(np.isin(labels.positions, self._choose(count)))
                heads.append(self._fit(some))
                sizes.append(len(some))
        right = self._measure(heads)
        of_heads = " ".join(f"{100 * compute_accuracy(each.mean(0)):.1f}" for each in right)
        print(f"seed {self.run.config['seed']}: V2 {of_heads}", flush=True)
        return [Scored(*row) for row in zip(heads, sizes, right, strict=True)]

    def measure_costs(self, teachers: Sequence[str]) -> dict[str, Cost]:
        """Measure the cost of each teacher, in interleaved repetitions."""
        run = replace(self.run, config=set_workers(self.run.config, 1), _keys={})
        positions = self._choose(TIMED_IMAGES)[:TIMED_IMAGES]
        rows: dict[str, list[Cost]] = {teacher: [] for teacher in teachers}
        for repetition in range(1 + REPETITIONS):
            for teacher in teachers:
                labeler = self._labeler(build_teacher(teacher), run)
                with tempfile.TemporaryDirectory() as folder:
                    cost = measure_cost(partial(labeler.write, Path(folder), positions))
                if repetition:  # the first one compiles and fills caches
                    rows[teacher].append(cost)
        count = len(positions)
        return {
            teacher: Cost(*(np.median([astuple(cost) for cost in costs], 0) / count).tolist())
            for teacher, costs in rows.items()
        }

    def _choose(self, count: int) -> np.ndarray:
        return choose_positions(self.run.images("train").labels, self.run.negatives, count)

    def _label(self, teacher: str) -> PseudoLabels:
        """Return the pseudo-labels of a teacher, of as many images as refine.images says."""
        method = build_teacher(teacher)
        if isinstance(method, Views):
            view = repr(method.method)
            shared = self.kept.setdefault(view, KeptMaps(method.method))
            method = replace(method, method=shared)
        folder = self.folder / teacher
        positions = self._choose(self.run.config["refine"]["images"])
        self._labeler(method, self.run).write(folder, positions)
        return PseudoLabels.read([folder], len(self._layers))

    def _labeler(self, teacher: SaliencyMethod, run: Run) -> PseudoLabeler:
        return PseudoLabeler(
            trained=self.trained,
            images=run.images("train"),
            compute=run.compute,
            teacher=teacher,
            segmenter=build_segmenter(run.config["refine"]["cut"]),
            reads=tuple(self._layers),
            negatives=run.negatives,
        )

    @property
    def _layers(self) -> dict[str, int]:
        return list_pyramid_layers(self.trained.network, self.run.size)

    def _fit(self, labels: PseudoLabels) -> FittedHead:
        return HeadFitter(
            labels=labels,
            layers=tuple(self._layers.items()),
            options=self.run.options("refine"),
            compute=self.run.compute,
            seed=self.run.config["seed"],
        ).fit()

    def _measure(self, heads: Sequence[FittedHead]) -> list[Bool[np.ndarray, "n 3000"]]:
        """Measure where the boxes of each head are right, on all images that have boxes."""
        run, images = self.run, self.run.images("val")
        truth = with_annotations(run.data).truth("val")
        partner = instantiate("saliency.teacher", run.config["saliency"]["teacher"])

        def work(batch: shards.PositionedExamples) -> shards.Arrays:
            seen = self.trained.tensor(shards.stack_pixels(batch))
            with torch.no_grad():
                answer = self.trained.network(seen, at=tuple(self._layers))
                maps = [fitted.head(*answer.activations.values()) for fitted in heads]
            if not all(fitted.head.alone for fitted in heads):
                wanted = shards.stack_labels(batch, run.device)[:, None]
                others = partner(self.trained.network, seen, lambda _: wanted).maps
                maps = [
                    own if fitted.head.alone else average_maps([own, others])
                    for own, fitted in zip(maps, heads, strict=True)
                ]
            rows = [
                [
                    find_right(values[0].float().cpu().numpy(), truth[example.id])
                    for values, (_, example) in zip(of_head, batch, strict=True)
                ]
                for of_head in maps
            ]
            return {"right": np.swapaxes(np.array(rows), 0, 1)}

        ids = images.ids
        scored = [n for n in range(len(ids)) if ids[n] in truth and len(truth[ids[n]].of_label())]
        pieces = runtime.split_into_batches(scored, run.compute.batch)
        parts = shards.network_flow(images, run.compute, work)(iter(pieces))
        right = np.concatenate([arrays["right"] for arrays, _ in parts if arrays])
        return [right[:, n] for n in range(len(heads))]


def build_teacher(name: str) -> SaliencyMethod:
    """Build a choice of `saliency@refine.teacher=`."""
    method: SaliencyMethod = instantiate(f"saliency {name}", read_choice("saliency", name))
    return method


def set_workers(config: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Return a configuration with another number of threads."""
    return {**config, "runtime": {**config["runtime"], "workers": workers}}


def measure_cost(work: Callable[[], None]) -> Cost:
    """Measure what a call takes in all threads of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return Cost(
        after.ru_utime - before.ru_utime + system, system, after.ru_minflt - before.ru_minflt
    )


def find_right(values: Float32[np.ndarray, "h w"], truth: GroundTruth) -> Bool[np.ndarray, "3000"]:
    """Return whether the box of the largest component is right, at each IoU and threshold."""
    scaled = upsample(values, frame_size(truth.size))
    largest = curves(scaled, truth.of_label(), truth.size).largest
    return np.concatenate([largest >= iou for iou in IOUS])


def compute_accuracy(means: Float64[np.ndarray, "*b k"]) -> Float64[np.ndarray, "*b"]:
    """Compute MaxBoxAccV2 from the shares of right boxes of each seed, IoU and threshold."""
    by_threshold = means.reshape(*means.shape[:-1], -1, len(IOUS), len(THRESHOLDS))
    return np.asarray(by_threshold.max(-1).mean((-1, -2)))


def compare(first: Sequence[Scored], second: Sequence[Scored]) -> tuple[float, tuple[float, float]]:
    """Return the difference second - first of MaxBoxAccV2 over seeds, and its 95 % interval."""
    pairs = np.concatenate([scored.right for scored in (*first, *second)], axis=1)
    half = pairs.shape[1] // 2
    both = pairs.astype(np.uint8)
    whole = bootstrap.means(both)
    drawn = bootstrap.resampled(both, SAMPLES, 0)
    spread = compute_accuracy(drawn[:, half:]) - compute_accuracy(drawn[:, :half])
    difference = compute_accuracy(whole[half:]) - compute_accuracy(whole[:half])
    return float(difference), bootstrap.middle(spread)


def run(*arguments: str) -> list[Record]:
    """Print the table of each set. Returns all numbers.

    Args:
        arguments: `sets=a,b`, `teachers=a,b`, `images=100,200`, `seeds=0,1`, `outputs=DIR` (kept,
            so that networks and pseudo-labels are not computed again), and overrides of the runs.

    Raises:
        UserError: a set is not known.
        FileNotFoundError: A data set is not on this machine.
    """
    options, records = Options.parse(arguments), []
    with ExitStack() as kept:
        outputs = options.outputs or kept.enter_context(tempfile.TemporaryDirectory())
        for name in options.sets:
            studies = [Study.train(name, options, seed, outputs) for seed in options.seeds]
            costs = studies[0].measure_costs(options.teachers)
            print(f"{name}: {costs}", flush=True)
            by_seed = [study.score(options.teachers, options.images) for study in studies]
            rows = [
                (teacher, count, [scored[n] for scored in by_seed])
                for n, (teacher, count) in enumerate(
                    product(options.teachers, options.images or [0])
                )
            ]
            of_first = [row for row in rows if row[0] == options.teachers[0]]
            reference = max(of_first, key=lambda row: row[1])
            for row in rows:
                records += describe_row(name, row, reference, costs)
    return records


Row = tuple[str, int, Sequence[Scored]]


def describe_row(name: str, row: Row, reference: Row, costs: Mapping[str, Cost]) -> list[Record]:
    """Print a row of the table of a set. Returns its numbers."""
    teacher, _, scored = row
    accuracy = 100 * float(np.mean([compute_accuracy(each.right.mean(0)) for each in scored]))
    agreement = [each.fitted.agreement for each in scored]
    alone = sum(each.fitted.head.alone for each in scored)
    learned = " ".join(str(each.learned_from) for each in scored)
    cost, first = costs[teacher], costs[reference[0]]
    line = f"{name} {teacher}: {learned} masks, V2 {accuracy:.1f}"
    records = [Record(f"{name} {teacher} {learned} V2", accuracy, None, None, "%", "")]
    if row is not reference:
        difference, (low, high) = compare(reference[2], scored)
        of_seeds = [100 * compare([a], [b])[0] for a, b in zip(reference[2], scored, strict=True)]
        shown = " ".join(f"{each:+.1f}" for each in of_seeds)
        line += f", {100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}; {shown})"
        records.append(
            Record(f"{name} {teacher} {learned} difference", 100 * difference, None, None, "points",
                   f"{100 * low:+.2f} to {100 * high:+.2f}")
        )  # fmt: skip
    shown = " ".join("-" if each is None else f"{each:.2f}" for each in agreement)
    line += f"; A {shown}, {alone} of {len(scored)} heads alone"
    line += (
        f"; cost {1000 * cost.seconds:.0f} ms ({1000 * cost.system:.0f} in the system, "
        f"{cost.faults:.0f} faults), {first.seconds / cost.seconds:.2f}"
    )
    print(line, flush=True)
    ratio = first.seconds / cost.seconds
    records.append(
        Record(f"{name} {teacher} cost", 1000 * cost.seconds, 1000 * first.seconds, ratio,
               "ms an image", reference[0])
    )  # fmt: skip
    return records
