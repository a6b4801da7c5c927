"""Names that users of captum, pytorch-grad-cam and torchcam type, and what is said here instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import suggest_choices

LAYER = "layer='layer4', a path in model.named_modules(), in the place of a module"
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
