"""Maps, boxes and numbers from Python, with a checkpoint of ours or any network.

    import pipeline

    predict = pipeline.load("outputs/latest")                     # a network trained here
    predictions = predict("photo.jpg")

    result = pipeline.explain(model, images, method="gradcam")    # any torch.nn.Module
    boxes = pipeline.localize(result, images, segmenter="grabcut")
    scores = pipeline.evaluate(boxes, "instances.json")
    audited = pipeline.audit_maps(model, images, method="gradcam")

It calls the functions that the stages explain, localize, evaluate and audit call, without files
between them.
"""

from pipeline.api.auditing import Audited, audit_maps
from pipeline.api.catalogue import Method, methods
from pipeline.api.evaluating import Scores, evaluate
from pipeline.api.explaining import Explained, explain
from pipeline.api.localizing import Localized, Prediction, localize
from pipeline.api.predictor import Predictor, load
from pipeline.api.showing import show
from pipeline.api.wrapping import AnyNetwork, wrap

__all__ = [
    "AnyNetwork",
    "Audited",
    "Explained",
    "Localized",
    "Method",
    "Prediction",
    "Predictor",
    "Scores",
    "audit_maps",
    "evaluate",
    "explain",
    "load",
    "localize",
    "methods",
    "show",
    "wrap",
]
