"""Tests of whether the maps of a method on any network can be trusted: those of stage audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from pipeline.api.catalogue import NEEDS_FITTING, build_method
from pipeline.api.explaining import as_batch
from pipeline.api.images import ImageInfo, check_logits, list_images, read_batch
from pipeline.api.localizing import build_segmenter, find_photograph
from pipeline.api.peers import read_peers_targets
from pipeline.api.targets import read_score, read_targets
from pipeline.api.wrapping import (
    AnyNetwork,
    Layer,
    OwnNetwork,
    as_network,
    check_order,
    name_layers,
    with_gradients,
)
from pipeline.audit.pictures import to_pixels
from pipeline.engine import runtime
from pipeline.engine.checkpoint import Checkpoint, to_tensor
from pipeline.engine.choices import build_choices, list_choices
from pipeline.engine.methods import needs_fitting
from pipeline.engine.options import check_options
from pipeline.engine.store import list_versions
from pipeline.errors import UserError, suggest_choices
from pipeline.model.classifier import Classifier
from pipeline.model.preprocessing import Preprocessing, device_of, dtype_of
from pipeline.protocols import AuditTest, SaliencyMethod, Segmenter
from pipeline.results.audit_table import format_audit
from pipeline.results.computed import Computed
from pipeline.results.shards import Arrays
from pipeline.stages.audit.auditing import PIECE, SHARDS_SHOWN, SHOWN, measure_batch
from pipeline.stages.audit.batches import BatchBuilder, ImageBatch
from pipeline.stages.audit.config import AuditOptions
from pipeline.stages.audit.records import average_numbers
from pipeline.types import AuditSubject, Boxes, SaliencyMap, Size

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from pipeline.api.images import Images


@dataclass(frozen=True)
class PreparedNetwork:
    """A network with the size and normalization of its input, as tests of maps want it.

    Attributes:
        network: answers with logits and activations.
        size: height and width of its input.
        mean: of red, green and blue, for pixels from 0 to 1.
        std: of red, green and blue, for pixels from 0 to 1.
    """

    network: Classifier
    size: Size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.network.classes

    def tensor(self, images: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
        """Normalize images by mean and std, on the network's device.

        Args:
            images: RGB, all of one size.
        """
        return to_tensor(images, self.mean, self.std, device_of(self.network))


@dataclass(frozen=True)
class Audited(Mapping[str, float]):
    """The numbers of an audit: `audited["deletion"]` is the mean over the images.

    Attributes:
        images: the name of each image.
        labels: the name of the class that was explained in each.
        per_image: of each number its value for each image, [n].
        records: every number as audit.json has it, also of parts of the network: mean, interval,
            whether low or high is good.
        table: the table that the command line prints.
        notes: which tests were not done, and why.
    """

    images: Sequence[str]
    labels: Sequence[str]
    per_image: Mapping[str, np.ndarray]
    records: Sequence[Mapping[str, Any]]
    table: str
    notes: Sequence[str]
    _draw: Mapping[str, Callable[[], Pillow.Image]] = field(repr=False)

    def __getitem__(self, name: str) -> float:
        if name not in self.per_image:
            known = suggest_choices(str(name), self.per_image)
            raise KeyError(f"{name}: no such number in the tests that were done; {known}")
        return float(self.per_image[name].mean())

    def __iter__(self) -> Iterator[str]:
        return iter(self.per_image)

    def __len__(self) -> int:
        return len(self.per_image)

    def __str__(self) -> str:
        return "\n".join([self.table.rstrip("\n"), *self.notes])

    def picture(self, test: str) -> Pillow.Image:
        """Draw the picture of a test.

        Args:
            test: its name.

        Raises:
            UserError: no such test was done.
        """
        if test not in self._draw:
            raise UserError(f"test={test!r}: not done; {suggest_choices(test, list(self._draw))}")
        return self._draw[test]()


@with_gradients
def audit_maps(
    model: nn.Module | Checkpoint,
    images: Images,
    method: str | SaliencyMethod = "gradcam",
    tests: Sequence[str] | None = None,
    *,
    layer: Layer | Sequence[Layer] | None = None,
    target: Any = "predicted",
    test_options: Mapping[str, Any] | None = None,
    segmenter: str | Segmenter = "threshold",
    seed: int = 0,
    precision: str = "float32",
    output: str | int | Callable[[Any], Tensor] | None = None,
    preprocessing: Any = None,
    last: Layer | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Audited:
    """Test whether the maps of a method on a network can be trusted, with the tests of stage audit.

    Every test sees all of the images. Costly ones (sanity, max_sensitivity, fragility) take tens of
    passes an image: name the others in `tests`, or give few images.

    Args:
        model: any module that gives logits, what `wrap` returned, or `load(...).trained`. It is as
            it was afterwards: weights, gradients, hooks, mode.
        images: as `explain` takes them.
        method: as `explain` takes it.
        tests: choices of conf/audit/, as `faithfulness` and `composite`; None: those that stage
            audit does by default.
        layer: the layer or layers that the method reads; see `explain`.
        target: the class that is explained: `predicted`, a class by index or name, or a list with a
            class for each image.
        test_options: `steps`, `samples`, `layers` and others, by the names that stage audit has
            (`audit.samples=50` is `{"samples": 50}`).
        segmenter: what boxes are made with, of which fragility measures how they move.
        seed: of noise and random weights.
        precision: float32, bf16, or auto; maps are computed in float32.
        output: see `wrap`.
        preprocessing: see `wrap`; tests change pixels, and have to know how they are normalized.
        last: see `wrap`.
        classes: see `wrap`.
        **options: of the method, as its YAML file has them.

    Returns:
        The numbers of each image, their means, the table, and a picture of each test.

    Raises:
        UserError: there is no such test, method or option, no test can be done on the network,
            nobody says how images are normalized, or the target is not one class an image.

    Examples:
        >>> import torch, torchvision, pipeline
        >>> model = torchvision.models.resnet18(num_classes=5)
        >>> images = torch.rand(2, 3, 64, 64)
        >>> audited = pipeline.audit_maps(model, images, "gradcam", tests=["composite"])
        >>> sorted(audited), audited.per_image["adcc"].shape
        (['adcc', 'arcc', 'coherency', 'complexity'], (2,))
    """
    built = _build_tests(tests, test_options or {})
    check_order(model, images)
    target = read_peers_targets(target)
    computes = build_method(method, name_layers(model, layer), options)
    name = method if isinstance(method, str) else type(method).__name__
    if needs_fitting(computes):
        raise UserError(f"method={name}: {NEEDS_FITTING.format(name=name)}")
    batch_given = as_batch(images)
    items = list_images(images) if batch_given is None else batch_given
    if not len(items):
        raise UserError("images: none given")
    trained = _prepare(model, batch_given, output=output, preprocessing=preprocessing, last=last,
                       classes=classes)  # fmt: skip
    subject = AuditSubject(trained=trained, network_name=_name_network(model), method=name,
                           seed=seed)  # fmt: skip
    refusals = {key: test.refusal(subject) for key, test in built.items()}
    done = {key: test for key, test in built.items() if not refusals[key]}
    notes = [f"{key}: not done; {reason}" for key, reason in refusals.items() if reason]
    if not done:
        raise UserError(f"tests: none can be done; {'; '.join(notes)}")
    device = device_of(trained.network)
    chosen = runtime.select_precision(precision, device)
    source = _Images(items, trained, build_segmenter(segmenter, {}))
    builder = BatchBuilder(
        network=trained.network,
        method=computes,
        segment=source.segment,
        seed=seed,
        is_independent=trained.network.answers == "independent",
    )
    with runtime.autocast(device, chosen):
        arrays = _measure(done, subject, builder, source, target)
    computed = Computed(chosen, device.type, list_versions())
    return _collect(done, subject, arrays, source.names, notes, computed)


def _build_tests(names: Sequence[str] | None, options: Mapping[str, Any]) -> dict[str, AuditTest]:
    """Build the tests, with options of the stage by name; raise UserError for what is not there."""
    known = vars(AuditOptions())
    for key in options:
        if key not in known or key in ("tests", "images", "few"):
            choices = [name for name in known if name not in ("tests", "images", "few")]
            raise UserError(f"test_options: {key}: no such option; {suggest_choices(key, choices)}")
    if isinstance(names, str):
        raise UserError(f"tests={names!r}: expected a list, as tests=[{names!r}]")
    if names is not None and not names:
        raise UserError(f"tests: none given; choices: {', '.join(list_choices('audit'))}")
    given = {**known, **options}
    check_options(AuditOptions, given)
    built: dict[str, AuditTest] = build_choices(
        "audit", known["tests"] if names is None else names, given
    )
    return built


def _prepare(
    model: nn.Module | Checkpoint, batch: Tensor | None, **options: Any
) -> PreparedNetwork | Checkpoint:
    """Return a network with the normalization of its input; raise UserError where nobody says."""
    if isinstance(model, Checkpoint):
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UserError(f"{', '.join(given)}: a trained network of ours says this itself")
        return model
    network = as_network(model, batch, **options)
    if not isinstance(network, AnyNetwork | OwnNetwork):
        raise UserError("model: give load(...).network, which says how its images are normalized")
    prepared = network.preprocessing
    if prepared is None:
        raise UserError(
            "preprocessing: this network does not say how its images are normalized, and the tests "
            "change pixels; give preprocessing={'size': 224, 'mean': (0.485, 0.456, 0.406), 'std': "
            "(0.229, 0.224, 0.225)} with its own numbers"
        )
    size = prepared.size if batch is None else (batch.shape[2], batch.shape[3])
    # Of a network of grey images it is a single mean, which all tests broadcast.
    mean, std = (cast(tuple[float, float, float], each) for each in (prepared.mean, prepared.std))
    return PreparedNetwork(network, size, mean, std)


def _name_network(model: nn.Module | Checkpoint) -> str:
    network = model.network if isinstance(model, Checkpoint) else model
    inner = network.body if isinstance(network, AnyNetwork | OwnNetwork) else network
    return type(inner).__name__


class _Images:
    """The images that are tested, read batch by batch."""

    def __init__(
        self, items: Any, trained: PreparedNetwork | Checkpoint, segmenter: Segmenter
    ) -> None:
        self.items, self.trained, self.segmenter = items, trained, segmenter
        self.known: list[ImageInfo] = []

    @property
    def names(self) -> list[str]:
        """Return the names of the images that were read."""
        return [info.name for info in self.known]

    def read(self) -> Iterator[ImageBatch]:
        """Yield the images in batches of as many as stage audit takes."""
        trained, device = self.trained, device_of(self.trained.network)
        prepared = Preprocessing(trained.size, trained.mean, trained.std)
        for start in range(0, len(self.items), PIECE):
            images, infos = read_batch(self.items[start : start + PIECE], start, prepared, device)
            images = images.to(dtype_of(trained.network))
            self.known.extend(infos)
            yield ImageBatch(
                ids=[info.name for info in infos],
                positions=range(start, start + len(infos)),
                pixels=to_pixels(images, trained),
                sizes=[info.size for info in infos],
                images=images.to(memory_format=torch.channels_last),
            )

    def segment(self, position: int, saliency: SaliencyMap) -> Boxes:
        """Segment the map of an image into boxes."""
        info = self.known[position]
        item = info.name if isinstance(self.items, Tensor) else self.items[position]
        photograph = find_photograph(item, info, self.segmenter)
        example = None if photograph is None else photograph.example(self.segmenter)
        return self.segmenter(saliency, example)


def _measure(
    tests: Mapping[str, AuditTest],
    subject: AuditSubject,
    builder: BatchBuilder,
    source: _Images,
    target: Any,
) -> dict[str, Arrays]:
    """Return the arrays of each test, of all images."""
    if read_score(target) is not None:
        raise UserError("target: a function has no probability, which the tests measure; name a "
                        "class of each image")  # fmt: skip
    targets = read_targets(target, len(source.items), subject.trained.classes)
    if not targets.is_single:
        raise UserError(f"target={target!r}: tests are of one class an image")
    parts: dict[str, list[Arrays]] = {name: [] for name in tests}
    for number, given in enumerate(source.read()):
        select = targets.selector(given.positions[0], len(given.ids), subject.trained.classes)
        select = check_logits(select, source.known[given.positions[0] :][: len(given.ids)])
        batch = builder.build(given, select, SHOWN if number < SHARDS_SHOWN else 0)
        for name, test in tests.items():
            parts[name].append(measure_batch(test, subject, batch))
    return {
        name: {key: np.concatenate([arrays[key] for arrays in every]) for key in every[0]}
        for name, every in parts.items()
    }


def _collect(
    tests: Mapping[str, AuditTest],
    subject: AuditSubject,
    arrays: Mapping[str, Arrays],
    names: Sequence[str],
    notes: Sequence[str],
    computed: Computed,
) -> Audited:
    """Return the numbers, the table and the pictures of all tests."""
    records = average_numbers(tests, subject, arrays)
    numbers = [number for test in tests.values() for number in test.numbers]
    explained: list[int] = next((of["class"].tolist() for of in arrays.values()), [])
    return Audited(
        images=names,
        labels=[subject.trained.classes[label] for label in explained],
        per_image={
            number.name: arrays[name][number.name]
            for name, test in tests.items()
            for number in test.numbers
        },
        records=records,
        table=format_audit([(subject.method, records)], numbers, computed),
        notes=notes,
        _draw={name: partial(test.draw, subject, arrays[name]) for name, test in tests.items()},
    )
