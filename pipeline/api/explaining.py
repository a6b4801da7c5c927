"""Saliency maps of any network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.api.catalogue import OWN, build_method
from pipeline.api.images import (
    ImageInfo,
    check_logits,
    is_network_input,
    list_images,
    read_batch,
)
from pipeline.api.peers import read_peers_targets
from pipeline.api.targets import Targets, read_score, read_targets
from pipeline.api.wrapping import (
    AnyNetwork,
    Layer,
    OwnNetwork,
    as_network,
    check_order,
    detach_images,
    name_layers,
    with_gradients,
)
from pipeline.engine import runtime
from pipeline.engine.compute import batch_size
from pipeline.errors import UserError
from pipeline.model.answers import make_score_reader
from pipeline.model.classifier import INPUT, Classifier
from pipeline.model.preprocessing import count_channels, device_of, dtype_of
from pipeline.ops.probabilities import Answers, compute_probabilities
from pipeline.protocols import SaliencyMethod
from pipeline.types import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from pipeline.api.images import Images

NO_ARRAY = (
    "what explain returned is no array: result.maps[0] is the first image's map, "
    "result.upsampled()[0] that at the size of the network's input, .cpu().numpy() makes an array"
)
SHOWN = 3  # images whose labels a result prints


@dataclass(frozen=True, repr=False)
class Explained:
    """Maps of one or several classes of each image.

    Attributes:
        maps: [b, h, w], or [b, t, h, w] where several classes were asked for: raw values at the
            method's resolution, not normalized. A map covers the whole image.
        classes: the index of the class of each map, [b] or [b, t]; of scores of the caller's own,
            their place.
        logits: of the network, [b, C].
        names: of the classes; empty where scores of the caller's own were explained.
        images: name and size of each image.
        method: the name of the method, or of its class.
        size: height and width of the network's input.
        colour: the values of red, green and blue, of methods that reach the image.
        negatives: names of classes without an object, of a network that was trained here: their
            maps have no boxes.
        answers: what the logits mean: `exclusive` classes, of which an image has one;
            `independent` ones; or `scores` of the caller's own.
    """

    maps: Float[Tensor, "b *t h w"]
    classes: Int[Tensor, "b *t"]
    logits: Float[Tensor, "b C"]
    names: Sequence[str]
    images: Sequence[ImageInfo]
    method: str
    size: tuple[int, int]
    colour: Float[Tensor, "b *t 3 H W"] | None = None
    negatives: frozenset[str] = frozenset()
    answers: Answers = "exclusive"

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, place: Any) -> Any:
        """Raise TypeError, as the peers' functions return an array in the place of this."""
        raise TypeError(NO_ARRAY)

    if not TYPE_CHECKING:  # a checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, which says where the maps are for names of tensors."""
            is_tensors = not name.startswith("_") and hasattr(Tensor, name)
            hint = f"; {NO_ARRAY}" if is_tensors else ""
            raise AttributeError(f"'Explained' object has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        labels = ", ".join(map(repr, self.labels[:SHOWN]))
        more = ", ..." if len(self) > SHOWN else ""
        count = self.logits.shape[1]
        kind = "score" if self.answers == "scores" else "class"
        plural = "" if count == 1 else "s" if kind == "score" else "es"
        return (
            f"Explained(method={self.method!r}, maps={[*self.maps.shape]}, "
            f"labels=[{labels}{more}], {count} {kind}{plural}, "
            f"input={self.size[0]}x{self.size[1]})"
        )

    @property
    def labels(self) -> list[Any]:
        """The name of each map's class, where there are names; nested where there are several."""
        indices = self.classes.tolist()

        def name(index: Any) -> Any:
            if isinstance(index, list):
                return [name(inner) for inner in index]
            return self.names[index] if self.names else f"score {index}"

        return [name(index) for index in indices]

    @property
    def probabilities(self) -> Float[Tensor, "b C"]:
        """The softmax of exclusive classes, the sigmoid of independent ones or of a single one.

        Scores of the caller's own have no probability: they are as they are.
        """
        return compute_probabilities(self.logits, self.answers)

    def upsampled(self, size: tuple[int, int] | None = None) -> Float[Tensor, "b *t H W"]:
        """Upsample the maps bilinearly, with half-pixel centres.

        Args:
            size: height and width; None: those of the network's input.
        """
        maps = self.maps if self.maps.ndim == 4 else self.maps[:, None]
        large = F.interpolate(maps.float(), size or self.size, mode="bilinear", align_corners=False)
        return large if self.maps.ndim == 4 else large[:, 0]

    def normalized(self) -> Float[Tensor, "b *t h w"]:
        """Scale each map to [0, 1] by its least and greatest value; a constant map gives zeros."""
        low = self.maps.amin((-2, -1), keepdim=True)
        span = self.maps.amax((-2, -1), keepdim=True) - low
        return (self.maps - low) / torch.where(span > 0, span, 1)


@with_gradients
def explain(
    model: nn.Module,
    images: Images,
    method: str | SaliencyMethod = "gradcam",
    *,
    layer: Layer | Sequence[Layer] | None = None,
    target: Any = "predicted",
    batch: int | None = None,
    precision: str = "float32",
    output: str | int | Callable[[Any], Tensor] | None = None,
    preprocessing: Any = None,
    last: Layer | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool | None = None,
    **options: Any,
) -> Explained:
    """Compute where a network looked.

    Args:
        model: any module that gives logits; or what `wrap` returns, or `load(RUN).network` is. It
            is as it was afterwards, also where an error is raised: weights, gradients, hooks, mode.
        images: tensors of floats [b, 3, H, W] or [3, H, W], or a list of the latter, as the
            network reads them: normalized; or photographs, one or a list: paths, Pillow images,
            arrays [H, W, 3] or tensors [3, H, W] of uint8. These are scaled as a whole and
            normalized as `preprocessing` says.
        method: a choice of conf/saliency/, as `pipeline.methods()` lists them, or an object that
            is called as `pipeline.protocols.SaliencyMethod` is.
        layer: the layer, or several, by path in `model.named_modules()` or as modules; `last` and
            `below` are the last feature maps and those that the last block reads. None: the
            method's own.
        target: `predicted`; `topN` (`top5` of fewer classes explains all, with a warning); a class
            by index or name, for all images; a list with a class for each image; a list of lists
            with several; a function from the network's output to scores [b] or [b, t]; or a list
            of functions, each to [b]: all of them are explained of each image.
        batch: images at once; None: all of a tensor, or what suits the device.
        precision: float32, bf16, or auto.
        output: see `wrap`.
        preprocessing: see `wrap`.
        last: see `wrap`.
        classes: see `wrap`.
        multi_label: see `wrap`.
        **options: of the method, as its YAML file has them.

    Returns:
        Maps, classes and logits, on the network's device, without a graph.

    Raises:
        UserError: the method, an option, the layer or the target is not there, or the method
            cannot explain such a network.
        TypeError: model or images are of a type that is not read.
        Exception: the function of `target` or `output` raised it; a note on it says so.

    Examples:
        >>> import torch, torchvision, pipeline
        >>> model = torchvision.models.resnet18(num_classes=5)
        >>> result = pipeline.explain(model, torch.rand(2, 3, 96, 96), "gradcam", target=[3, 4])
        >>> result.maps.shape, result.classes.tolist()
        (torch.Size([2, 3, 3]), [3, 4])
    """
    check_order(model, images)
    target = read_peers_targets(target)
    arguments = (*OWN, "batch", "multi_label")
    computes = build_method(method, name_layers(model, layer), options, arguments)
    batch_given = as_batch(images)
    items = list_images(images) if batch_given is None else batch_given
    if not len(items):
        raise UserError("images: none given")
    score = read_score(target)
    if score is not None and not isinstance(model, Classifier):
        output, classes = make_score_reader(score), None  # it need not have logits
    network = as_network(model, batch_given, output=output, preprocessing=preprocessing, last=last,
                         classes=classes, multi_label=multi_label)  # fmt: skip
    targets = read_targets(target, len(items), network.classes)
    if targets.cut:
        warnings.warn(f"target={targets.cut}", stacklevel=3)  # past the decorator
    if targets.score is not None:
        if not isinstance(network, AnyNetwork):
            raise UserError("target: a function explains networks of others, not one trained here")
        network = network.with_scores(targets.score)
    device = device_of(network)
    count = batch or (batch_size(None, device) if batch_given is None else len(items))
    prepared = network.preprocessing if isinstance(network, AnyNetwork | OwnNetwork) else None
    parts, infos, size = [], [], (0, 0)
    with runtime.autocast(device, runtime.select_precision(precision, device)):
        for start in range(0, len(items), count):
            tensor, known = read_batch(items[start : start + count], start, prepared, device)
            tensor = tensor.to(dtype_of(network))
            size = (tensor.shape[2], tensor.shape[3])
            choose = check_logits(targets.selector(start, len(known), network.classes), known)
            try:
                parts.append(computes(network, tensor, choose))
            except (RuntimeError, UserError) as error:
                _check_channels(network, tensor, error)
                _check_gradient(network, tensor, score is not None, error)
                raise
            infos.extend(known)
    name = method if isinstance(method, str) else type(method).__name__
    result = _join(parts, infos, targets, network.classes, name, size)
    negatives = network.negatives if isinstance(network, OwnNetwork) else frozenset()
    return replace(result, negatives=negatives, answers=network.answers)


def _check_channels(network: Classifier, images: Tensor, error: Exception) -> None:
    """Raise UserError after an error where the network's first layer reads other channels."""
    wanted, given = count_channels(network), images.shape[1]
    if isinstance(error, UserError) or "channels" not in str(error) or wanted == given:
        return
    raise UserError(
        f"images: they have {given} channel{'' if given == 1 else 's'}, and the network's first "
        f"convolution reads {wanted}; photographs are prepared by preprocessing={{'size': ..., "
        "'mean': ..., 'std': ...}, with a mean and a std for each channel: of one number for a "
        "network of grey images"
    ) from error


def _check_gradient(
    network: Classifier, images: Tensor, is_own_score: bool, error: Exception
) -> None:
    """Check after an error whether what is explained depends on the images at all.

    Raises:
        UserError: it has no gradient at the images, which explains the error.
    """
    if not _is_about_gradients(network, error):
        return
    try:
        has_gradient = _has_gradient(network, images[:1])
    except Exception:
        return  # the network cannot run: the first error says why
    if has_gradient:
        return
    if is_own_score:
        raise UserError(
            "target: the function's score has no gradient, as it does not depend on the network's "
            "output, or only through what has none: detach(), item(), argmax(), a comparison, "
            "rounding, torch.no_grad(). Compute it from the output's floats; or explain it with a "
            "method that needs no gradient, as method='occlusion'"
        ) from error
    raise UserError(
        "model: its logits have no gradient at the images: it runs under torch.no_grad() or "
        "detaches what it computes; methods that need none, as 'occlusion', can explain it"
    ) from error


def _is_about_gradients(network: Classifier, error: Exception) -> bool:
    """Return whether an error may come from a score without a gradient, and not from a method."""
    if isinstance(error, UserError):
        problem = network.layers.problem if isinstance(network, AnyNetwork) else None
        return str(error) == problem
    return "require grad" in str(error)  # as torch.autograd.grad says it


def _has_gradient(network: Classifier, images: Tensor) -> bool:
    """Return whether what is explained is computed from the images, by what has a gradient."""
    with torch.enable_grad():
        answer = network(images, at=(INPUT,))
        score, image = answer.logits.sum(), answer.activations[INPUT]
        if not score.requires_grad:
            return False
        return torch.autograd.grad(score, image, allow_unused=True)[0] is not None


def as_batch(images: Any) -> Float[Tensor, "b c H W"] | None:
    """Return a tensor that a network reads already as a batch; None: `images` are photographs.

    Args:
        images: one or several.

    Raises:
        UserError: tensors are of several shapes.
    """
    if is_network_input(images):
        tensor = detach_images(images)
        return tensor if tensor.ndim == 4 else tensor[None]
    if isinstance(images, list | tuple) and images and all(map(is_network_input, images)):
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) > 1 or len(shapes[0]) == 4:
            raise UserError(f"images: a list of tensors [3, H, W] of one shape, got {shapes}")
        return torch.stack(list(images))
    _check_array(images)
    return None


def _check_array(images: Any) -> None:
    """Raise UserError for an array of floats with channels first: is it what a network reads?"""
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f" or images.ndim not in (3, 4):
        return
    if images.shape[-3] in (1, 3) and images.shape[-1] not in (1, 3, 4):
        raise UserError(
            f"images: an array {list(images.shape)} of floats; what the network reads, normalized, "
            "is given as a tensor: torch.from_numpy(images); photographs are arrays [H, W, 3]"
        )


def _join(
    parts: Sequence[Explanation],
    images: Sequence[ImageInfo],
    targets: Targets,
    names: Sequence[str],
    method: str,
    size: tuple[int, int],
) -> Explained:
    """Return the explanations of all batches as one, without a graph."""

    def join(tensors: Iterator[Tensor]) -> Tensor:
        joined = torch.cat([tensor.detach() for tensor in tensors])
        return joined[:, 0] if targets.is_single and joined.shape[1] == 1 else joined

    colours = [part.colour for part in parts if part.colour is not None]
    return Explained(
        maps=join(part.maps.float() for part in parts),
        classes=join(part.classes for part in parts),
        logits=torch.cat([part.logits.detach().float() for part in parts]),
        names=tuple(names),
        images=tuple(images),
        method=method,
        size=size,
        colour=join(iter(colours)) if len(colours) == len(parts) else None,
    )
