"""Names that users of captum, pytorch-grad-cam and torchcam type, and what is said here instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError, suggest_choices

LAYER = "layer='layer4', a path in model.named_modules(), or layer=model.layer4, the module"
TARGET = (
    "target=281, 'tabby' or a function of the output, the same for all images; target=[281, 207], "
    "a class for each image"
)
IMAGES = "the images are the second argument: explain(model, images)"
VIEWS = (
    "method=Views(GradCAM()) of pipeline.saliency.views, the mean over the image and its mirror "
    "image, with scales=(1.0, 1.5) also over sizes"
)
GRIDS = "nothing, as tokens and grids with channels last are read as maps"
DEVICE = "nothing, as the network's own device is used"
BATCH = "batch=8, images at once"

ARGUMENTS = {
    "target_layers": LAYER,
    "target_layer": LAYER,
    "targets": TARGET,
    "target_category": TARGET,
    "class_idx": TARGET,
    "input_tensor": IMAGES,
    "inputs": IMAGES,
    "reshape_transform": GRIDS,
    "aug_smooth": VIEWS,
    "eigen_smooth": "method='seg_eigencam' or 'eigen_gradcam', of which each takes the first "
    "principal component of weighted maps, though not the same one",
    "use_cuda": DEVICE,
    "internal_batch_size": BATCH,
    "perturbations_per_eval": BATCH,
    "n_steps": "steps=32 of method='integrated_gradients'",
    "n_samples": "samples=1000 of methods that draw samples",
    "nt_samples": "samples=25 of method='smoothgrad'",
    "stdevs": "noise=0.15 of method='smoothgrad', a share of the image's range",
    "baselines": "baseline='mean' of method='integrated_gradients' and 'deeplift', or value=0.0 of "
    "method='occlusion'",
    "sliding_window_shapes": "window=32 of method='occlusion', in pixels",
    "strides": "stride=16 of method='occlusion', in pixels",
    "attribute_to_layer_input": LAYER,
    "fc_layer": "nothing, as the class weights are found by what the network computes",
    "input_shape": "nothing, as the layers are found by running the network on the images",
    "scores": "nothing, as the network is run by explain; its answer is result.logits",
    "normalized": "result.normalized()",
    "batch_size": BATCH,
    "num_samples": "samples=8 of method='smooth_gradcam_plus_plus' and others that draw samples",
    "feature_mask": "superpixels='grid' or 'slic' and segments=50 of method='lime' and "
    "'kernel_shap'",
    "additional_forward_args": "a module that has them: pipeline.explain(Wrapper(model), images)",
    "forward_func": "a module, whose output target= and output= read",
    "return_convergence_delta": "nothing: the sum of result.maps is that of the attributions",
    "device": DEVICE,
    "relu_attributions": "relu=True of methods that have it",
    "abs": "result.maps.abs()",
    "show_progress": "nothing, as explain prints nothing",
}
"""What an argument of the peers is here."""

METHODS = {
    "saliency": "gradient",
    "vanillagradient": "gradient",
    "inputxgradient": "gradient_times_input",
    "gradientxinput": "gradient_times_input",
    "deconvolution": "deconvnet",
    "guidedbackpropagation": "guided_backprop",
    "noisetunnel": "smoothgrad",
    "layergradcam": "gradcam",
    "fullgradient": "fullgrad",
    "layerwiserelevancepropagation": "lrp",
}
"""Choices of conf/saliency/ by those names of the peers, folded, that are not spelled like them."""


PACKAGES = ("pytorch_grad_cam", "torchcam", "captum")
CLASSIFIER_TARGET = "ClassifierOutputTarget"  # pytorch-grad-cam's class by index


def name_package(thing: Any) -> str | None:
    """Return the peer that a class or an object is of; None: it is of none.

    Args:
        thing: a class or an object.
    """
    kind = thing if isinstance(thing, type) else type(thing)
    package = kind.__module__.partition(".")[0]
    return package if package in PACKAGES else None


def check_own(method: Any, choices: Sequence[str]) -> None:
    """Check that a method is none of a peer's.

    Args:
        method: what stands in the place of a method.
        choices: the names of methods here.

    Raises:
        UserError: it is one, with the name that it has here.
    """
    package = name_package(method)
    if package is None:
        return
    name = method.__name__ if isinstance(method, type) else type(method).__name__
    known = find_method(name, choices)
    named = "as pipeline.methods() lists them" if known is None else f"method={known!r}"
    raise UserError(
        f"method: {name} of {package} is built with a network of its own, and cannot be called "
        f"here; give the name of a method, {named}"
    )


def read_peers_targets(target: Any) -> Any:
    """Return pytorch-grad-cam's targets, one for each image, as classes; any other as it is.

    Its targets are functions, too, but of the output of a single image.

    Args:
        target: see `explain`.

    Raises:
        UserError: it is a target of pytorch-grad-cam that is no class.
    """
    items = target if isinstance(target, list | tuple) else [target]
    of_peers = [item for item in items if name_package(item) is not None]
    if not of_peers:
        return target
    others = [item for item in of_peers if type(item).__name__ != CLASSIFIER_TARGET]
    if others or len(of_peers) < len(items):
        read = (others or of_peers)[0]
        raise UserError(
            f"target: {type(read).__name__} of {name_package(read)} reads the output of one image; "
            "here a function reads the output of the whole batch, and gives a score of each "
            "image: target=lambda output: output[:, 281]; a class for each image is "
            "target=[281, 207]"
        )
    classes = [item.category for item in of_peers]
    return classes if isinstance(target, list | tuple) else classes[0]


def answer_call(error: TypeError, given: Sequence[str]) -> TypeError:
    """Return the error of a call that does not fit a function, with what to say instead.

    Args:
        error: as Python has it.
        given: the arguments that were given by name.

    Examples:
        >>> print(answer_call(TypeError("no model"), ["inputs"]))
        no model; inputs=: the images are the second argument: explain(model, images)
    """
    hints = [f"{name}=: {ARGUMENTS[name]}" for name in given if name in ARGUMENTS]
    if "positional" in str(error):
        hints.append("options are given by name: explain(model, images, 'gradcam', target=281)")
    return TypeError("; ".join([str(error), *hints]))


def suggest_argument(name: str, options: Sequence[str], own: Sequence[str]) -> str:
    """Return what to say instead of an argument that a method has not.

    Args:
        name: the argument.
        options: of the method.
        own: arguments of the function that was called.
    """
    if name in ARGUMENTS:
        return f"here it is {ARGUMENTS[name]}"
    return suggest_choices(name, [*options, *own])


def find_method(name: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a name of the peers means, whatever its spelling; None: none.

    Args:
        name: as a peer spells it: `GradCAM++`, `Grad-CAM`, `InputXGradient`.
        choices: the names of methods here.

    Examples:
        >>> find_method("Grad-CAM++", ["gradcam", "gradcam_plus_plus"])
        'gradcam_plus_plus'
        >>> find_method("InputXGradient", ["gradient", "gradient_times_input"])
        'gradient_times_input'
    """
    folded = {_fold(choice): choice for choice in choices}
    wanted = _fold(name)
    known = folded.get(wanted) or METHODS.get(wanted)
    return known if known in choices else None


def _fold(name: str) -> str:
    """Return a name's letters and digits in lower case, `++` and `pp` at its end spelled out."""
    text = re.sub(r"(\+\+|(?<=cam)pp$)", "plusplus", name.casefold())
    return re.sub(r"[^a-z0-9]", "", text)
