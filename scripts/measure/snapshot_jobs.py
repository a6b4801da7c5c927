"""The jobs whose results are compared, and the small inputs that they are given.

A job is one or several commands that share an `outputs` folder. Inputs are drawn from a fixed seed
or are a small part of ../shared/data; they lie in `inputs/` of the job's working folder, so that
commands name them by the same relative path in both trees.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Overrides = tuple[str, ...]
MakeInputs = Callable[[Path, Path], None]
"""Writes the inputs of a job into the first folder; the second is the data of ../shared."""

# All that could make two runs of the same code differ is fixed.
COMMON: Overrides = ("precision=float32", "runtime.workers=1", "runtime.device=cpu",
                     "outputs=outputs")  # fmt: skip
SMALL: Overrides = ("data.images=96", "data.val_images=24", "train.epochs=1", "train.batch=32",
                    "runtime.shard=8")  # fmt: skip
MOBILENET: Overrides = ("model=mobilenet_v2", "model.weights=inputs/mobilenet_v2_imagenet.pth")
SQUEEZENET: Overrides = ("model=squeezenet1_0", "model.weights=inputs/squeezenet1_0_imagenet.pth")


@dataclass(frozen=True)
class Job:
    """Commands in the order that they are run in.

    Args:
        steps: name -> overrides of a command.
        quick: whether it is among the jobs of `quick`.
        inputs: writes what the commands read.
        after: another job; `inputs/run` is a link to the run folder of its last command.
        shared: whether the inputs come from ../shared.
        package: what has to be installed.
    """

    steps: Mapping[str, Overrides]
    quick: bool = False
    inputs: tuple[MakeInputs, ...] = field(default=())
    after: str | None = None
    shared: bool = False
    package: str | None = None


# -- drawn inputs ---------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def draw_photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw an ellipse on a noisy background."""
    noise = rng.integers(60, 140, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    x, y = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    ImageDraw.Draw(image).ellipse([x, y, x + width // 2, y + height // 2], fill=colour)
    return image


def make_photos(folder: Path, shared: Path) -> None:
    """Write pictures of several formats and sizes, one that lies on its side, one broken."""
    rng = np.random.default_rng(0)
    photos = folder / "photos"
    (photos / "below").mkdir(parents=True)
    draw_photo(rng, 160, 120).save(photos / "wide.png")
    draw_photo(rng, 90, 150).save(photos / "high.jpg", quality=90)
    draw_photo(rng, 64, 64).convert("L").save(photos / "below" / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: the camera was turned
    draw_photo(rng, 140, 100).save(photos / "below" / "turned.jpg", quality=90, exif=turned)
    (photos / "broken.jpg").write_bytes(b"no picture")


def random_box(rng: np.random.Generator, width: int, height: int) -> list[float]:
    """Draw a box x, y, w, h inside an image."""
    w, h = rng.integers(10, width // 2), rng.integers(10, height // 2)
    return [int(rng.integers(0, width - w)), int(rng.integers(0, height - h)), int(w), int(h)]


def outline(box: list[float]) -> list[list[float]]:
    """Return a box as a polygon of COCO."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def make_boxes(folder: Path, shared: Path) -> None:
    """Write COCO annotations, and two results files whose boxes are near the true ones."""
    rng = np.random.default_rng(1)
    sizes = [(200, 150) if n % 3 else (120, 160) for n in range(60)]
    images = [{"id": n + 1, "file_name": f"{n:03d}.jpg", "width": w, "height": h}
              for n, (w, h) in enumerate(sizes)]  # fmt: skip
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 8, "name": "hen"}]
    true: list[dict[str, Any]] = []
    for n, size in enumerate(sizes):
        for _ in range(1 + (n % 4 == 0)):
            box = random_box(rng, *size)
            true.append({"id": len(true) + 1, "image_id": n + 1, "category_id": (3, 5, 8)[n % 3],
                         "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                         "segmentation": outline(box)})  # fmt: skip
    write_json(
        folder / "instances.json", {"images": images, "annotations": true, "categories": categories}
    )
    for name, spread in (("theirs", 8.0), ("others", 14.0)):
        results = [near for box in true for near in near_results(rng, box, spread)]
        if name == "theirs":  # what cannot be scored has to be named, and an image without a box
            results = [result for result in results if result["image_id"] != 7]
            reversed_box = {**results[1], "bbox": [5, 5, -3, 4], "segmentation": []}
            results += [{**results[0], "image_id": 999}, reversed_box]
        write_json(folder / f"{name}.json", results)


def near_results(
    rng: np.random.Generator, true: dict[str, Any], spread: float
) -> list[dict[str, Any]]:
    """Draw a result near an annotation, and a second one of another class near it."""
    results = []
    for category in (true["category_id"], 3 if true["category_id"] != 3 else 5):
        box = np.abs(np.array(true["bbox"]) + rng.normal(0, spread, 4)).round(2)
        box[2:] = np.maximum(box[2:], 2)
        score = round(float(rng.uniform(0.1, 1)), 4)
        results.append({"image_id": true["image_id"], "category_id": category, "bbox": box.tolist(),
                        "score": score, "segmentation": outline(box.tolist())})  # fmt: skip
    return results


def make_maps(folder: Path, shared: Path) -> None:
    """Write metadata as wsolevaluation has it, with boxes and with masks, and maps for it."""
    rng = np.random.default_rng(2)
    names = [f"val/{n:03d}.jpg" for n in range(40)]
    sizes = {name: (100, 80) if n % 2 else (60, 90) for n, name in enumerate(names)}
    boxes = {name: [random_box(rng, *sizes[name]) for _ in range(1 + (n % 5 == 0))]
             for n, name in enumerate(names)}  # fmt: skip
    for kind in ("boxes", "masks"):
        write_metadata(folder / f"metadata_{kind}", sizes, boxes, kind == "masks")
    for maps, spread in (("maps", 3.0), ("others", 12.0)):
        for n, name in enumerate(names):
            grid = 14 if n % 3 else 56
            values = draw_map(rng, boxes[name][0], sizes[name], grid, spread)
            path = folder / maps / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values)
    np.save(folder / "maps" / "val" / "stranger.npy", np.ones((4, 4), np.float32))


def draw_map(
    rng: np.random.Generator, box: list[float], size: tuple[int, int], grid: int, spread: float
) -> np.ndarray[Any, Any]:
    """Draw a hill near the middle of a box, with noise, of grid x grid values."""
    x, y, w, h = box
    middle = np.array([x + w / 2, y + h / 2]) + rng.normal(0, spread, 2)
    across, down = ((np.arange(grid) + 0.5) * side / grid for side in size)
    far = ((across[None] - middle[0]) / w) ** 2 + ((down[:, None] - middle[1]) / h) ** 2
    hill = np.exp(-2 * far) + 0.1 * rng.random((grid, grid))
    return np.asarray(hill, np.float32)


def write_metadata(
    folder: Path,
    sizes: Mapping[str, tuple[int, int]],
    boxes: Mapping[str, list[list[float]]],
    masks: bool,
) -> None:
    """Write the four text files, and pictures of masks where asked."""
    write_lines(folder / "image_ids.txt", list(sizes))
    write_lines(folder / "class_labels.txt", [f"{name},{n % 3}" for n, name in enumerate(sizes)])
    write_lines(folder / "image_sizes.txt", [f"{name},{w},{h}" for name, (w, h) in sizes.items()])
    lines = []
    for number, (name, several) in enumerate(boxes.items()):
        for n, (x, y, w, h) in enumerate(several):
            if not masks:
                lines.append(f"{name},{x},{y},{x + w - 1},{y + h - 1}")
                continue
            mask, ignore = (np.zeros(sizes[name][::-1], np.uint8) for _ in range(2))
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 255
            ignore[int(y) : int(y + h), int(x + w) : int(x + w) + 5] = 255
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / f"masks/{number}_{n}.png")
            Image.fromarray(ignore).save(folder / f"masks/{number}_ignore.png")
            lines.append(f"{name},masks/{number}_{n}.png,masks/{number}_ignore.png"
                         if n == 0 else f"{name},masks/{number}_{n}.png,")  # fmt: skip
    write_lines(folder / "localization.txt", lines)


# -- parts of ../shared ---------------------------------------------------------------------------


def copy_mobilenet(folder: Path, shared: Path) -> None:
    """Copy the weights of MobileNetV2."""
    shutil.copy(shared / "weights/mobilenet_v2_imagenet.pth", folder)


def copy_squeezenet(folder: Path, shared: Path) -> None:
    """Copy the weights of SqueezeNet."""
    shutil.copy(shared / "weights/squeezenet1_0_imagenet.pth", folder)


def copy_efficientnet(folder: Path, shared: Path) -> None:
    """Copy the weights of timm's EfficientNet-Lite0."""
    shutil.copy(shared / "weights/tf_efficientnet_lite0_imagenet.pth", folder)


def copy_two_photos(folder: Path, shared: Path) -> None:
    """Copy one photo of each of two classes."""
    (folder / "photos").mkdir()
    for source in sorted((shared / "imagenette/val").iterdir())[:2]:
        shutil.copy(sorted(source.iterdir())[0], folder / "photos" / f"{source.name}.jpg")


def copy_imagenette(folder: Path, shared: Path) -> None:
    """Copy a few images of three classes, with their names and boxes."""
    source, target = shared / "imagenette", folder / "imagenette"
    classes = sorted(path.name for path in (source / "val").iterdir())[:3]
    for split, count in (("train", 16), ("val", 6)):
        for name in classes:
            (target / split / name).mkdir(parents=True)
            for path in sorted((source / split / name).iterdir())[:count]:
                shutil.copy(path, target / split / name)
    lines = (source / "classes.txt").read_text(encoding="utf-8").splitlines()
    write_lines(target / "classes.txt", [line for line in lines if line.split()[0] in classes])
    known = json.loads((source / "instances_val.json").read_text(encoding="utf-8"))
    known["images"] = [
        image for image in known["images"] if (target / "val" / image["file_name"]).is_file()
    ]
    kept = {image["id"] for image in known["images"]}
    known["annotations"] = [record for record in known["annotations"] if record["image_id"] in kept]
    write_json(target / "instances_val.json", known)


def copy_cub(folder: Path, shared: Path) -> None:
    """Copy the images of two classes of CUB, with the lines about them."""
    source, target = shared / "cub30/CUB_200_2011", folder / "cub"
    target.mkdir()
    images = (source / "images.txt").read_text(encoding="utf-8").splitlines()
    classes = sorted({line.split()[1].split("/")[0] for line in images})[:2]
    listed = [line.split() for line in images if line.split()[1].split("/")[0] in classes]
    kept = {number for number, name in listed}
    for _, name in listed:
        (target / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / name, target / "images" / name)
    for path in sorted(source.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        wanted = classes if path.name == "classes.txt" else kept
        field_ = 1 if path.name == "classes.txt" else 0
        write_lines(target / path.name, [line for line in lines if line.split()[field_] in wanted])


def copy_mnist(folder: Path, shared: Path) -> None:
    """Copy the first digits of MNIST: 600 to learn from, 40 to look at."""
    source, target = shared / "mnist/MNIST/raw", folder / "mnist/MNIST/raw"
    target.mkdir(parents=True)
    for pool, count in (("train", 600), ("t10k", 40)):
        for kind, head, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            name = f"{pool}-{kind}-ubyte"
            content = (source / name).read_bytes()[: head + count * size]
            number = count.to_bytes(4, "big")
            (target / name).write_bytes(content[:4] + number + content[8:])


# -- the jobs -------------------------------------------------------------------------------------

# Methods of several kinds: each is segmented, measured, reported and compared.
MEASURED = ("cam", "gradcam", "layercam_below", "gradient", "ddt")
# The others that a small network with a GAP head can be asked: maps and boxes alone.
FURTHER = ("cam_positive", "gradcam_plus_plus", "xgradcam", "hirescam", "layercam",
           "layercam_multiscale", "eigencam", "ablationcam", "scorecam", "fullgrad",
           "gradient_signed", "gradient_times_input", "integrated_gradients", "smoothgrad",
           "smoothgrad_squared", "deconvnet", "guided_backprop", "guided_gradcam", "occlusion",
           "ddt_per_class", "average")  # fmt: skip
EVALUATED = "stages=[train,explain,localize,evaluate]"
IMAGENETTE: Overrides = ("data=folder", "data.root=inputs/imagenette", *MOBILENET)
FAST_REFINE: Overrides = ("refine.steps=12", "refine.batch=8")

QUICK: dict[str, Job] = {
    "cam": Job({"cam": ("+experiment=cam", *SMALL)}, quick=True),
    "evaluate_boxes": Job(
        {
            "boxes": (
                "+experiment=evaluate", "boxes=inputs/theirs.json",
                "annotations=inputs/instances.json", "against=inputs/others.json",
            )
        },
        quick=True,
        inputs=(make_boxes,),
    ),
    "evaluate_maps": Job(
        {
            f"{kind}_{protocol}": (
                "+experiment=evaluate", "maps=inputs/maps", f"metadata=inputs/metadata_{kind}",
                "against=inputs/others", f"protocol={protocol}",
            )
            for kind in ("boxes", "masks")
            for protocol in ("default", "wsolevaluation")
        },
        quick=True,
        inputs=(make_maps,),
    ),
    "predict": Job(
        {"predict": ("+experiment=predict", "checkpoint=inputs/run", "images=inputs/photos")},
        quick=True,
        inputs=(make_photos,),
        after="cam",
    ),
}  # fmt: skip

# On the embedded data set: nothing from elsewhere is needed.
EMBEDDED: dict[str, Job] = {
    "methods": Job(
        {
            "methods": (
                "+experiment=cam", *SMALL, f"explain.methods=[{','.join(MEASURED)}]",
                "against=inputs/run",
            ),
            "further": (
                "+experiment=cam", *SMALL, f"explain.methods=[{','.join(FURTHER)}]",
                "stages=[train,explain,localize]", "segmenter.threshold=0.3",
            ),
            "rise": (
                "+experiment=cam", *SMALL, "saliency=rise", "saliency.masks=40",
                "stages=[train,explain,localize]", "segmenter.threshold=0.3",
            ),
        },
        after="cam",
    ),
    "segmenters": Job(
        {
            "grabcut": ("+experiment=cam", *SMALL, "segmenter=grabcut"),
            "grabcut_mask": ("+experiment=cam", *SMALL, "segmenter=grabcut_mask", EVALUATED),
            "simonyan": ("+experiment=simonyan2013", *SMALL, EVALUATED),
            "components": (
                "+experiment=cam", *SMALL, "segmenter.components=all", "segmenter.masks=true",
                "segmenter.threshold=0.3",
                "stages=[train,explain,localize,evaluate,draw,report]",
            ),
            "views": (
                "+experiment=cam", *SMALL, "explain.flips=true", "explain.scales=[1,1.5]",
                "evaluate.ious=[0.5]", "explain.target=predicted", EVALUATED,
            ),
            "protocol": ("+experiment=cam", *SMALL, "protocol=wsolevaluation"),
        }
    ),
    "objectives": Job(
        {
            **{
                name: ("+experiment=cam", *SMALL, f"objective={name}", EVALUATED)
                for name in ("has", "cutmix", "adl")
            },
            **{
                name: (
                    "+experiment=cam", *SMALL, f"objective={name}", "saliency=foreground", EVALUATED
                )
                for name in ("acol", "spg", "bas")
            },
        }
    ),
    "training": Job(
        {
            "knobs": (
                "+experiment=cam", *SMALL, "train.epochs=3", "train.optimizer=adamw",
                "train.accumulate=2", "train.ema=0.9", "train.balanced=true", "train.patience=1",
                "stages=[train]",
            ),
            "resnet": (
                "+experiment=cam", *SMALL, "model=resnet18", "model.weights=null",
                EVALUATED,
            ),
        }
    ),
    "best": Job({"best": ("+experiment=best", *SMALL, *FAST_REFINE)}),
    "audit": Job(
        {
            "audit": (
                "+experiment=audit", *SMALL, "explain.methods=[gradient,gradcam]",
                "audit.images=6", "audit.few=3", "audit.steps=3", "audit.layers=3",
                "audit.attack_steps=3",
                "audit.tests=[faithfulness,sanity,input_shift,fragility]",
            )
        }
    ),
    "inspect": Job(
        {
            "inspect": (
                "+experiment=inspect", *SMALL, "checkpoint=inputs/run",
                "inspect.views=[classes,channels,features,first_order,filters,top5,dream]",
                "inspect.steps=8", "inspect.images=24", "inspect.few=2", "inspect.side=96",
                "inspect.octaves=2", "inspect.dream_steps=3",
            ),
            "pretty": (
                "+experiment=inspect", *SMALL, "checkpoint=inputs/run", "inspect.style=pretty",
                "inspect.views=[classes,channels]", "inspect.steps=8", "inspect.classes=[heart]",
            ),
        },
        after="cam",
    ),
}  # fmt: skip

# On real images and real weights.
REAL: dict[str, Job] = {
    "best_photos": Job(
        {
            "best": ("+experiment=best", *IMAGENETTE, *FAST_REFINE),
            "predict": (
                "+experiment=predict", "checkpoint=outputs/latest", "images=inputs/photos",
                "explain.target=top2",
            ),
        },
        inputs=(copy_imagenette, copy_mobilenet, make_photos),
        shared=True,
    ),
    "heads": Job(
        {
            "new_head": (
                "+experiment=cam", *IMAGENETTE, "train.head=new", "train.epochs=2",
                "segmenter=grabcut", "explain.split=all",
            ),
            "finetuned": (
                "+experiment=cam", *IMAGENETTE, "train.head=new", "train.epochs=1",
                "train.batch=16", "train.freeze=stages:4", "data.size=96", "saliency=gradcam",
                EVALUATED,
            ),
        },
        inputs=(copy_imagenette, copy_mobilenet),
        shared=True,
    ),
    "cub": Job(
        {
            "cub": (
                "+experiment=cam", "data=cub", "data.root=inputs/cub", *MOBILENET,
                "train.epochs=1", "saliency=ddt", EVALUATED,
            )
        },
        inputs=(copy_cub, copy_mobilenet),
        shared=True,
    ),
    "explain": Job(
        {
            "mobilenet": (
                "+experiment=explain", *MOBILENET, "images=inputs/photos",
                "explain.target=[top2]",
                "explain.methods=[gradient,smoothgrad,gradcam,layercam,eigencam,occlusion]",
            ),
            "squeezenet": ("+experiment=classics", *SQUEEZENET, "images=inputs/photos"),
        },
        inputs=(copy_two_photos, copy_mobilenet, copy_squeezenet),
        shared=True,
    ),
    "timm": Job(
        {
            "timm": (
                "+experiment=explain", "model=timm", "model.name=tf_efficientnet_lite0",
                "model.weights=inputs/tf_efficientnet_lite0_imagenet.pth", "images=inputs/photos",
                "explain.methods=[gradcam,gradient]",
            )
        },
        inputs=(copy_two_photos, copy_efficientnet),
        shared=True,
        package="timm",
    ),
    "lenet_mnist": Job(
        {
            "lenet": (
                "+experiment=lenet_mnist", "data.root=inputs/mnist", "train.epochs=2",
                "picture.images=6",
            )
        },
        inputs=(copy_mnist,),
        shared=True,
    ),
}  # fmt: skip

JOBS = QUICK | EMBEDDED | REAL
