"""Detector: what boxes are worth as training data of a detector, beside true boxes.

The same detector is trained on the same images of the embedded set with the boxes of each recipe,
same seed, same steps, and scored on the true boxes of the same other images. True boxes are used
as a yardstick alone: nothing else of the project learns from them.

    best      +experiment=best: the localization head's map, threshold_refined
    grabcut   CAM, segmenter=grabcut
    cam       +experiment=cam: CAM, threshold
    true      the annotated boxes

The detector is torchvision's FCOS (Tian et al., "FCOS: Fully Convolutional One-Stage Object
Detection", ICCV 2019) with one level of stride 4 and two convolutions in its head, on 64 x 64
pixels, whose backbone starts from the classifier that made the maps. AP50 is pycocotools'.

    ./scripts/accuracy detector [seed=0] [images=800] [val=400] [epochs=8] [outputs=DIR] ...
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.shapes import Shapes
from pipeline.engine import checkpoint
from pipeline.engine.checkpoint import Checkpoint
from pipeline.ops.iou import best_iou
from pipeline.results.boxes import iterate_boxes
from scripts.measure.mosaics import train
from scripts.measure.records import Record
from scripts.measure.runs import compose

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

RECIPES: dict[str, tuple[str, ...]] = {
    "best": ("saliency=refined", "segmenter=threshold_refined"),
    "grabcut": ("saliency=cam", "segmenter=grabcut"),
    "cam": ("saliency=cam", "segmenter=threshold"),
}
TRUE = "true"
SIDE = 64  # pixels that both sides of an image are scaled to, as for the classifier
STRIDE = 4
BATCH = 16
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Annotated:
    """An image with its boxes, all of one class.

    Attributes:
        image: RGB, SIDE x SIDE pixels.
        label: the class, from 0.
        boxes: xyxy in pixels of `image`.
    """

    image: UInt8[np.ndarray, "64 64 3"]
    label: int
    boxes: Float32[np.ndarray, "n 4"]


def run(*arguments: str) -> list[Record]:
    """Return AP50 of the detector trained on the boxes of each recipe, beside that on true boxes.

    Args:
        arguments: `seed=`, `images=` and `val=` how many images the detector learns from and is
            scored on, `epochs=` of the detector, `recipes=best,cam`, `outputs=DIR`, and overrides
            of the training of the classifier.
    """
    options = dict(argument.split("=", 1) for argument in arguments)
    seed, images = int(options.pop("seed", "0")), int(options.pop("images", "800"))
    val, epochs = int(options.pop("val", "400")), int(options.pop("epochs", "8"))
    recipes = options.pop("recipes", ",".join([*RECIPES, TRUE])).split(",")
    outputs = options.pop("outputs", None)
    overrides = [f"{key}={value}" for key, value in options.items()]
    learned = Shapes(images=images, val_images=val, held_back=0.0)
    scored = _annotate(learned, "val", _true_boxes(learned, "val"))
    with tempfile.TemporaryDirectory() as temporary:
        where = f"outputs={outputs or temporary}"
        network = train(["data=shapes", f"seed={seed}", "data.seed=0", where, *overrides])
        trained = checkpoint.load(network, torch.device("cpu"))
        true = _true_boxes(learned, "train")
        boxes = {TRUE: true}
        for name in recipes:
            if name != TRUE:
                given = (
                    f"data.images={images}",
                    "data.held_back=0",
                    where,
                    f"checkpoint={network}",
                )
                boxes[name] = find_boxes((*RECIPES[name], *given))
    ap50 = {}
    for name in recipes:
        detector = fit(trained, _annotate(learned, "train", boxes[name]), epochs, seed)
        ap50[name] = measure_ap50(detector, scored)
        print(f"detector: {name}: AP50 {ap50[name]:.3f}", flush=True)
    records = []
    for name in recipes:
        right = np.mean([best_iou(found[0] if len(found) else None, true[id]) >= 0.5
                         for id, found in boxes[name].items()])  # fmt: skip
        note = f"{right:.3f} of {images} images right at IoU 0.5 in training, {epochs} epochs"
        reference = ap50.get(TRUE)
        ratio = None if reference is None else ap50[name] / reference
        records.append(Record(f"{name} boxes", ap50[name], reference, ratio, "AP50", note))
    return records


def find_boxes(overrides: Sequence[str]) -> dict[str, Float32[np.ndarray, "n 4"]]:
    """Return the boxes of the training images for their labels, by image id."""
    stages = "stages=[explain,localize]"
    prepared = compose("best", "data=shapes", *overrides, stages, "explain.split=train")
    for stage in ("explain", "localize"):
        folder, _ = prepared.get_or_create(stage)
    ids = prepared.images().ids
    return {ids[position]: found.boxes for position, found in iterate_boxes(folder, ids)}


class Backbone(nn.Module):
    """The body of a classifier, as torchvision's detectors read one.

    Args:
        body: from images to feature maps of stride STRIDE.
        channels: of the feature maps.
    """

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps."""
        return OrderedDict(maps=self.body(images))


def build_detector(trained: Checkpoint) -> nn.Module:
    """Build a detector on a copy of the body of a classifier.

    Args:
        trained: the classifier, whose feature maps have a stride of STRIDE.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS, FCOSHead

    channels = trained.network.channels
    assert channels is not None
    body = deepcopy(trained.network.body).requires_grad_(True)
    count = len(trained.classes)
    anchors = AnchorGenerator(((2 * STRIDE,),), ((1.0,),))
    detector: nn.Module = FCOS(
        Backbone(body, channels), count, SIDE, SIDE, list(trained.mean), list(trained.std),
        anchor_generator=anchors, head=FCOSHead(channels, 1, count, num_convs=2),
        score_thresh=0.05, nms_thresh=0.5, detections_per_img=20,
    )  # fmt: skip
    return detector


def fit(trained: Checkpoint, images: Sequence[Annotated], epochs: int, seed: int) -> nn.Module:
    """Train a detector; return it in eval mode."""
    torch.manual_seed(seed)
    detector = build_detector(trained).train()
    rng = np.random.default_rng(seed)
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(detector.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, max(2, steps))
    for _ in range(epochs):
        order = rng.permutation(len(images))[: len(images) // BATCH * BATCH]
        for batch in order.reshape(-1, BATCH):
            chosen = [images[n] for n in batch]
            mirrored = rng.random(BATCH) < 0.5
            pairs = [_to_target(one, flip) for one, flip in zip(chosen, mirrored, strict=True)]
            losses = detector([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            optimizer.zero_grad()
            total: Tensor = sum(losses.values())
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return detector.eval()


def measure_ap50(detector: nn.Module, images: Sequence[Annotated]) -> float:
    """Return AP at IoU 0.5, the mean over classes, of all boxes of a detector."""
    results: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(images, 1):
        with torch.no_grad():
            found = detector([_to_target(one, False)[0]])[0]
        for box, label, score in zip(
            found["boxes"].numpy(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        ):
            results.append({"image_id": number, "category_id": label + 1, "bbox": _xywh(box),
                            "score": score})  # fmt: skip
        for box in one.boxes:
            x, y, width, height = _xywh(box)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0,
                                "category_id": one.label + 1, "bbox": [x, y, width, height],
                                "area": width * height})  # fmt: skip
    return _evaluate(len(images), annotations, results)


def _evaluate(
    count: int, annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> float:
    """Return AP50 of results over the images numbered from 1 to `count`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:
        return 0.0
    labels = sorted({one["category_id"] for one in annotations})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(1, count + 1)],
            "categories": [{"id": label} for label in labels],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _true_boxes(data: Shapes, split: Any) -> dict[str, Float32[np.ndarray, "n 4"]]:
    return {id: truth.boxes for id, truth in data.truth(split).items()}


def _annotate(
    data: Shapes, split: Any, boxes: Mapping[str, Float32[np.ndarray, "n 4"]]
) -> list[Annotated]:
    """Return the images of a split with boxes, scaled; an image without a box is left out."""
    annotated = []
    for position, id in enumerate(data.ids(split)):
        if len(boxes.get(id, ())) == 0:
            continue
        example = data.example(split, position, at=(SIDE, SIDE))
        scale = SIDE / np.array([example.size[1], example.size[0]] * 2)
        label = example.label
        assert isinstance(label, int)
        annotated.append(Annotated(example.image, label, (boxes[id] * scale).astype(np.float32)))
    return annotated


def _to_target(one: Annotated, flip: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the image [3, H, W] from 0 to 1 and the target, mirrored if asked."""
    pixels = torch.from_numpy(one.image).permute(2, 0, 1).float() / 255
    boxes = torch.from_numpy(one.boxes)
    if flip:
        width = pixels.shape[2]
        pixels = pixels.flip(2)
        boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
    labels = torch.full((len(boxes),), one.label)
    return pixels, {"boxes": boxes, "labels": labels}


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = (float(end) for end in box)
    return [x0, y0, x1 - x0, y1 - y0]
