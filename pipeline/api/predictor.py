"""A network trained here, to be called with an image: boxes without files between."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from pipeline.api.explaining import explain
from pipeline.api.images import Photograph, is_image, open_photograph
from pipeline.api.localizing import Prediction, segment_maps
from pipeline.api.targets import read_targets
from pipeline.api.wrapping import OwnNetwork
from pipeline.engine import checkpoint, runtime
from pipeline.engine.backends import select_backend
from pipeline.engine.choices import fill_defaults, instantiate, read_choice
from pipeline.engine.completion import read_run_config
from pipeline.engine.compute import batch_size
from pipeline.engine.methods import average_over_views, is_of_localization_head
from pipeline.errors import UserError
from pipeline.formats import in_memory
from pipeline.protocols import RefiningSegmenter, SaliencyMethod, Segmenter
from pipeline.results.confidence import describe_maps, find_models
from pipeline.results.thresholds import (
    USED_IOU,
    find_thresholds,
    load_thresholds,
    select_thresholds,
)
from pipeline.segmenter.confidence import ConfidenceModel, MapKind, default_model

if TYPE_CHECKING:
    from torch import nn

    from pipeline.api.images import Image


PRECISIONS = ("auto", *runtime.PRECISIONS)
MIN_PROBABILITY = 0.5  # of a class that is predicted, where an image may have several


class Predictor:
    """A trained network with a saliency method and a segmenter, to be called with an image.

    Args:
        trained: the network, in eval mode.
        saliency: the method that computes maps.
        segmenter: turns a map into boxes.
        precision: what the network runs in.
        confidence: computes the confidences of boxes; None: the default of the method.
    """

    def __init__(
        self,
        trained: checkpoint.Checkpoint,
        saliency: SaliencyMethod,
        segmenter: Segmenter,
        precision: runtime.Precision,
        confidence: ConfidenceModel | None = None,
    ) -> None:
        self.trained, self.saliency, self.segmenter = trained, saliency, segmenter
        self.precision = precision
        kind: MapKind = "head" if is_of_localization_head(saliency) else "classifier"
        self.confidence = confidence or default_model(kind, with_agreement=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the network's classes."""
        return self.trained.classes

    @property
    def network(self) -> OwnNetwork:
        """The network, for `pipeline.explain` and all that follows it, with any method."""
        return OwnNetwork(self.trained)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, image: Image, target: str | int = "predicted"
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self, image: Iterable[Image], target: str | int = "predicted"
    ) -> list[list[Prediction]]: ...

    def __call__(
        self, image: Image | Iterable[Image], target: str | int = "predicted"
    ) -> list[Prediction] | list[list[Prediction]]:
        """Compute the boxes of some classes in an image, or in each of several images.

        Args:
            image: a path; a Pillow image; a uint8 array [H, W, 3], [H, W, 4] or grey [H, W]; a
                torch tensor [3, H, W]; or an iterable of these. Arrays and tensors may also have
                floats from 0 to 1. Where the network was trained on integers or floats of more
                than 8 bits, those of Pillow images, arrays and tensors are scaled as its training
                images were. Images of an iterable may differ in size and kind.
            target: which classes: `predicted`, the most probable one, or of a network whose images
                may have several each with a probability of at least 0.5; `topK` as in `top5`, the
                name of a class, or its index from 0, unless a class has that number as its name.

        Returns:
            A prediction for each class; of `topK`, the most likely class first. For an iterable a
            list of these, one for each image, computed in batches.

        Raises:
            SkippedImage: the image cannot be used.
            UserError: `target` names no class of this network, or more classes than it has, or
                the shape, type or values of an array or tensor are others.
            TypeError: `image` is none of these.
        """
        read_targets(str(target), 1, self.classes)  # refuses it before any image is read
        if is_image(image):
            return self._predict([self._open(image, "image")], str(target))[0]
        if not isinstance(image, Iterable) or isinstance(image, Mapping | bytes | bytearray):
            raise TypeError(f"image: {in_memory.EXPECTED}; got {type(image).__name__}")
        batch = batch_size(None, checkpoint.network_device(self.trained.network))
        named = ((item, f"image {n} of the list") for n, item in enumerate(image, 1))
        return [
            predictions
            for items in runtime.split_into_batches(named, batch)
            for predictions in self._predict([self._open(*item) for item in items], str(target))
        ]

    def _open(self, image: Any, name: str) -> Photograph:
        return open_photograph(image, name, self.trained.intensity)

    def _predict(self, photographs: Sequence[Photograph], target: str) -> list[list[Prediction]]:
        """Compute the predictions of each image of a batch.

        Negatives are not given to the rule: where one is predicted, it is what the prediction says.
        """
        if target == "predicted" and self.trained.network.answers == "independent":
            return self._predict_several(photographs)
        result = explain(
            self.network, photographs, self.saliency, target=target, precision=self.precision
        )
        return segment_maps(result, photographs, self.segmenter, self.confidence)

    def _predict_several(self, photographs: Sequence[Photograph]) -> list[list[Prediction]]:
        """Compute the predictions of each class that an image has, the most probable first."""
        options: dict[str, Any] = {"precision": self.precision}
        first = explain(self.network, photographs, self.saliency, target="predicted", **options)
        present = [_list_present(row) for row in first.probabilities.tolist()]
        most = max(map(len, present))
        if most == 1:
            return segment_maps(first, photographs, self.segmenter, self.confidence)
        filled = [[*each, *[each[0]] * (most - len(each))] for each in present]
        result = explain(self.network, photographs, self.saliency, target=filled, **options)
        predictions = segment_maps(result, photographs, self.segmenter, self.confidence)
        return [of[: len(each)] for of, each in zip(predictions, present, strict=True)]


def _list_present(probabilities: Sequence[float]) -> list[int]:
    """Return the classes of at least MIN_PROBABILITY, or else the most probable one."""
    order = sorted(range(len(probabilities)), key=lambda n: -probabilities[n])
    return [n for n in order if probabilities[n] >= MIN_PROBABILITY] or order[:1]


def load(
    where: str | os.PathLike[str],
    saliency: str | None = None,
    segmenter: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    backend: str = "torch",
) -> Predictor:
    """Return a predictor that uses the network of a run or of a checkpoint.

    Maps are averaged over the run's views (explain.flips, explain.scales). With
    segmenter.threshold=validation the threshold is the one that the run chose.

    Args:
        where: the folder of a run, as `outputs/latest`, or of a checkpoint.
        saliency: a choice of conf/saliency/; None: the run's method, or cam where there is no run.
        segmenter: a choice of conf/segmenter/; None: the run's segmenter, or threshold where there
            is no run or `saliency` is given (the run's threshold was chosen for the run's maps).
        device: auto, cpu, cuda, cuda:N or mps.
        precision: float32, bf16, or auto: bf16 on a GPU that multiplies it, float32 elsewhere. A
            run's own precision is not taken; its config.yaml names it.
        model: of a run with model=module: the module, which is copied and gets the run's weights,
            the function that makes it, or its name, `mymodule:build`. A name that only a file has
            is never called.
        backend: what computes what needs no gradients, in float32 on a CPU: torch, onnxruntime,
            openvino, or auto, the one of these that is installed. The first image takes some
            seconds then, in which the network is compiled and compared with torch.

    Raises:
        UserError: there is no checkpoint, no such choice, precision or backend, or the run chose no
            threshold; or the network is one of model=module, and `model` is missing.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: choices: {', '.join(PRECISIONS)}")
    folder = Path(where)
    torch_device = runtime.select_device(device)
    found = checkpoint.find(folder)
    trained = checkpoint.load(found, torch_device, _read_model(model, found))
    chosen = runtime.select_precision(precision, torch_device)
    name = select_backend(backend, torch_device, chosen, deterministic=False)
    if name != "torch":
        from pipeline.model.compiled import Compiled

        trained.network.compiled = Compiled(name)
    config = read_run_config(folder)
    method = config.get("saliency") if saliency is None else read_choice("saliency", saliency)
    method = method or read_choice("saliency", "cam")
    run_segmenter = config.get("segmenter") if saliency is None and segmenter is None else None
    node = run_segmenter or read_choice("segmenter", segmenter or "threshold")
    if node.get("threshold") == "validation":
        views = [config["explain"][name] for name in ("flips", "scales")]
        node = {**node, "threshold": _load_validation_threshold(folder, method, views, node)}
    # A run's config.yaml is a file: it may only name classes of this project.
    built = cast(SaliencyMethod, instantiate("saliency", method, within="pipeline.saliency."))
    if saliency is None and config:  # a method that is named here is used as it is
        views = config["explain"]
        built = average_over_views(built, views["flips"], views["scales"])
    models = None
    if run_segmenter is not None:  # else maps or boxes are others than those of the run
        views = [config["explain"][name] for name in ("flips", "scales")]
        made_for = describe_maps(fill_defaults("saliency", method), views, config["segmenter"])
        models = find_models(folder, made_for)
    return Predictor(
        trained,
        built,
        cast(Segmenter, instantiate("segmenter", node, within="pipeline.segmenter.")),
        chosen,
        None if models is None else models.alone,
    )


def _read_model(
    model: nn.Module | Callable[[], nn.Module] | str | None, folder: Path
) -> Callable[[], nn.Module] | None:
    """Return the function that gives the module of a network; None where none is given.

    Raises:
        UserError: it is a name, and the run called that with arguments.
    """
    from torch import nn

    from pipeline.model.importing import import_function

    if isinstance(model, nn.Module):
        return lambda: model
    if not isinstance(model, str):
        return model
    if arguments := checkpoint.read_card(folder)["model"].get("arguments"):
        raise UserError(
            f"model={model!r}: the run called it with {arguments}; give a function without "
            "arguments that does so: model=lambda: build(...)"
        )
    return import_function(model)


def _load_validation_threshold(
    run: Path, saliency: Mapping[str, Any], views: Sequence[Any], segmenter: Mapping[str, Any]
) -> float:
    """Return the threshold that a run's stage calibrate chose for images that it has not seen."""
    refines = isinstance(
        instantiate("segmenter", segmenter, within="pipeline.segmenter."), RefiningSegmenter
    )
    method = fill_defaults("saliency", saliency)
    folder = find_thresholds(run, method, views, segmenter if refines else None)
    return float(select_thresholds(load_thresholds(folder), refines)["elsewhere"][f"{USED_IOU:g}"])
