"""Choose what the exported network computes, and say how it differs from the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.model.classifier import FOREGROUND, HasClassWeights
from pipeline.saliency.cam import CAM
from pipeline.saliency.foreground import Foreground
from pipeline.saliency.refined import Refined
from pipeline.saliency.views import Views

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier
    from pipeline.protocols import SaliencyMethod
    from pipeline.stages.onnx.graph import MapKind

# Of the maximum, where the run's rule cannot be exported: Zhou et al., CVPR 2016
DEFAULT_THRESHOLD = 0.2


def choose_map(network: Classifier, method: SaliencyMethod, name: str) -> tuple[MapKind, list[str]]:
    """Choose the map that the file computes.

    Args:
        network: the classifier with its heads.
        method: the saliency method of the run.
        name: of the method.

    Returns:
        The map, and notes on how it differs from that of the method.

    Raises:
        UserError: The network has no map that ONNX can compute.
    """
    notes = []
    if isinstance(method, Views):
        notes.append(
            "onnx: the map is that of the plain image, not averaged over explain.flips and scales"
        )
        method = method.method
    if FOREGROUND in network.branches and isinstance(method, Foreground | Refined):
        return "foreground", [*notes, *_describe_foreground(network, method)]
    if not isinstance(network.head, HasClassWeights):
        raise UserError(
            f"onnx: saliency={name} needs gradients or many passes, which an ONNX file does not "
            "compute, and the network has neither a localization head nor a head with class "
            "weights; +experiment=best, or train.head=new with saliency=cam, trains one"
        )
    if not isinstance(method, CAM):
        notes.append(
            f"onnx: the map is the CAM, not that of saliency={name}, which needs gradients or "
            "several passes; those of +experiment=best and saliency=cam are exported as they are"
        )
    elif method.weights == "positive":
        return "cam_positive", notes
    return "cam", notes


def _describe_foreground(network: Classifier, method: Foreground | Refined) -> list[str]:
    """Return notes on how the localization head's map and class differ from the method's."""
    notes = []
    if isinstance(method, Refined) and not network.stands_alone:
        notes.append(
            "onnx: the map is that of the localization head alone; saliency=refined averages it "
            "with its teacher's map, whose gradients ONNX does not compute"
        )
    if method.flips:
        notes.append("onnx: the map is not averaged with that of the mirrored image")
    if network.tells_objects and method.second_pass_margin > 0:
        notes.append(
            "onnx: the class is that of one forward pass, without the second pass on the crop of "
            "images whose class is open (saliency.second_pass_margin)"
        )
    return notes


def choose_threshold(
    given: float | None, segmenter: Mapping[str, Any], validation: float | None
) -> tuple[float | None, list[str]]:
    """Choose the threshold of the box.

    Args:
        given: onnx.threshold of the configuration.
        segmenter: its node of the configuration.
        validation: the threshold that stage calibrate chose, where the segmenter asks for it.

    Returns:
        A fraction of the maximum, or None for the rule `size`; and notes where it is not the run's.
    """
    if given is not None:
        return given, []
    if validation is not None:
        return validation, []
    threshold = segmenter.get("threshold")
    if segmenter.get("at", "fraction") == "fraction":
        if threshold == "size":
            return None, []
        if isinstance(threshold, int | float):
            return float(threshold), []
    rule = f"threshold={threshold}, at={segmenter.get('at')}"
    return DEFAULT_THRESHOLD, [
        f"onnx: the box is cut at {DEFAULT_THRESHOLD} of the maximum (Zhou et al. 2016), as the "
        f"run's rule ({rule}) is not in the file; onnx.threshold=NUMBER sets another"
    ]
