"""A choice of each family, and a stage, by the protocols of pipeline/protocols/ alone.

tests/test_outside.py copies this file to a folder outside the package and runs its classes there.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from pipeline.engine.options import option
from pipeline.engine.stage import Published, Stage
from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen, mean_score
from pipeline.model.small import Small
from pipeline.types import (
    AuditNumber,
    Boxes,
    CocoIds,
    Example,
    Explanation,
    GroundTruth,
    MetricNumber,
    PairedRows,
    ViewResult,
)


class MeanFeature:
    """The mean of the last feature maps, the same for all classes, to a power."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, network, images, choose):
        with torch.no_grad():
            output = network(images, at=("last",))
        classes = choose(output.logits)
        maps = output.activations["last"].float().mean(1, keepdim=True) ** self.power
        return Explanation(maps.expand(-1, classes.shape[1], -1, -1), classes, output.logits)


@dataclass(frozen=True)
class Frame:
    """The box around all values above a threshold."""

    threshold: float | str = 0.5
    needs_image = 0

    @property
    def threshold_info(self):
        if isinstance(self.threshold, str):
            return {"kind": self.threshold, "value": None}
        return {"kind": "fixed", "value": self.threshold}

    def with_threshold(self, threshold):
        return replace(self, threshold=threshold)

    def __call__(self, saliency, example):
        values = saliency.raw()
        rows, columns = np.nonzero(values >= self.threshold * values.max())
        scale = np.array(saliency.size) / values.shape
        top, left = rows.min() * scale[0], columns.min() * scale[1]
        bottom, right = (rows.max() + 1) * scale[0], (columns.max() + 1) * scale[1]
        boxes = np.array([[left, top, right, bottom]], np.float32)
        scores = np.array([saliency.score], np.float32)
        return Boxes(saliency.id, saliency.explained, boxes, scores, saliency.size)


class Stripes:
    """Images with a stripe, upright or level, and where it is."""

    classes = ("level", "upright")
    size = (32, 32)
    counts = {"train": 24, "held_back": 12, "calibration": 0, "val": 8, "test": 0, "all": 44}

    def __init__(self, width: int = 8) -> None:
        self.width = width

    def ids(self, split):
        return [f"{split}/{number}" for number in range(self.counts[split])]

    def labels(self, split):
        return np.arange(self.counts[split]) % 2

    def example(self, split, position, *, at=None, at_least=None):
        x0, y0, x1, y1 = self.box(position)
        pixels = np.random.default_rng(position).integers(0, 90, (48, 48, 3)).astype(np.uint8)
        pixels[y0:y1, x0:x1] = 255
        shown = Image.fromarray(pixels).resize((at or at_least or (48, 48))[::-1])
        label = int(self.labels(split)[position])
        return Example(self.ids(split)[position], np.array(shown), label, (48, 48))

    def box(self, position):
        start = position % (48 - self.width)
        box = (0, start, 48, start + self.width)
        return box if position % 2 == 0 else (start, 0, start + self.width, 48)

    def coco_names(self, split):
        return CocoIds(range(1, self.counts[split] + 1), self.ids(split), (1, 2))

    def fingerprint(self, split):
        return f"{split}-{self.width}"

    def notes(self):
        return ["stripes are drawn"]


class AnnotatedStripes(Stripes):
    """The same with annotated boxes."""

    def truth(self, split):
        return {
            name: GroundTruth(name, int(label), (48, 48), np.array([self.box(n)], np.float32))
            for n, (name, label) in enumerate(zip(self.ids(split), self.labels(split), strict=True))
        }

    def truth_fingerprint(self, split):
        return self.fingerprint(split)

    def truth_notes(self):
        return []


class Squared:
    """The squared distance of the probabilities from the label."""

    needs_images = False

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, network, inputs, labels):
        logits = network(inputs).logits.float()
        wanted = functional.one_hot(labels, logits.shape[1]).float()
        return self.weight * (logits.softmax(1) - wanted).square().sum(1).mean(), logits


class Narrow(Small):
    """The small network with another name."""


class Distance(MetricBase):
    """How far the centre of the best box is from that of a true box, in pixels."""

    numbers = (
        MetricNumber(
            name="centre_distance",
            title="centre distance",
            unit="pixels",
            lower_is_better=True,
            is_headline=True,
        ),
    )
    needs = frozenset({"true", "boxes"})
    row_names = ("centre_distance",)

    def __init__(self, times: float = 1.0) -> None:
        self.times, self.seed = times, 0
        self.values: list[float] = []

    def with_settings(self, settings):
        metric = Distance(self.times)
        metric.seed = settings.seed
        return metric

    def update(self, evidence):
        found = evidence.boxes[:1].reshape(-1, 2, 2).mean(1)
        true = evidence.true.reshape(-1, 2, 2).mean(1)
        far = np.linalg.norm(found - true, axis=1).min() if len(found) else max(evidence.size)
        self.values.append(self.times * far)

    def compute(self, select=None, label=None):
        values = chosen(np.array(self.values), select)
        return mean_score("centre_distance", values, label=label, seed=self.seed)

    def rows(self):
        return {"centre_distance": np.array(self.values)}

    def pairs(self, rows):
        yield PairedRows("centre_distance", rows["centre_distance"], lambda means: means[..., 0])


class Brightness:
    """A test of maps: how large are their values?"""

    numbers = (AuditNumber("brightness", "largest value", ""),)
    is_costly = False
    picture_arrays = ()

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps

    def refusal(self, subject):
        return ""

    def __call__(self, subject, batch):
        maps = batch.maps_of(subject.trained.network, batch.images)
        return {"brightness": self.steps + 0 * maps.flatten(1).amax(1).detach().cpu().numpy()}

    def part_values(self, subject, arrays):
        return ()

    def draw(self, subject, arrays):
        return Image.new("RGB", (40, 30), (255, 0, 0))


class Weights:
    """A view: the weights of the head as a picture."""

    reads_data = reads_maps = False

    def __init__(self, times: int = 4) -> None:
        self.times = times

    def __call__(self, subject):
        weights = np.uint8(255 * (subject.trained.network.class_weights.cpu().numpy() > 0))
        picture = np.kron(weights, np.ones((self.times, self.times), np.uint8))
        return ViewResult(sheets={"": np.repeat(picture[..., None], 3, 2)}, numbers={"n": 1})


class Lines:
    """An exporter: a line for each box."""

    def __init__(self, separator: str = ",") -> None:
        self.separator = separator

    def __call__(self, found, folder):
        lines = [
            self.separator.join([found.ids[position], found.classes[boxes.label], *map(str, box)])
            for position, boxes in found.boxes()
            for box in boxes.boxes.tolist()
        ]
        (folder / "boxes.txt").write_text("\n".join(lines))


@dataclass
class CountOptions:
    """Options of the stage."""

    way: str = option("up", "up | down", choices=("up", "down"))
    option: int = option(2, "what each image counts", low=1, high=9)


class Count(Stage):
    """A stage: the number of images with boxes."""

    name = "mine"
    after = ("localize", "evaluate")
    needs = ("localize",)
    options = CountOptions
    publishes = (Published("count.json", "counted/count.json"),)
    prints = "count.txt"

    def cache_key(self, run):
        return {
            "source": run.sources(__name__),
            "mine": run.config["mine"],
            "localize": run.key("localize"),
        }

    def run(self, run, folder):
        options = run.options("mine")
        count = options.option * len(run.images().ids)
        (folder / "count.json").write_text(str(count))
        (folder / "count.txt").write_text(f"counted {options.way}: {count}")
