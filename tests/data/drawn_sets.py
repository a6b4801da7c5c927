"""Small sets in the layouts in which their makers publish them; a function draws each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 60)  # height and width of the images
BOX = (12, 8, 43, 31)  # of their object: the first and the last pixel, counted from 0
SYNSETS = ("n01440764", "n02102040", "n03000684")
WORDS = ("tench, Tinca tinca", "English springer, English springer spaniel", "chain saw, chainsaw")


def paint(path: Path, number: int, size: tuple[int, int] = SIZE) -> None:
    """Write a noisy image with a bright object in BOX."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 90, (*size, 3), np.uint8)
    x0, y0, x1, y1 = BOX
    pixels[y0 : y1 + 1, x0 : x1 + 1] += np.array([150, 40 * (number % 4), 20], np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=90)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_voc(path: Path, name: str, box: tuple[int, ...], size: tuple[int, int] = SIZE) -> None:
    corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    bndbox = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>"
        f"<object><name>{name}</name><bndbox>{bndbox}</bndbox></object></annotation>"
    )


def save_mat(path: Path, **variables: Any) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def write_mask(path: Path, inside: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(path)


def object_mask(size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    x0, y0, x1, y1 = BOX
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


# -- wsolevaluation

WSOL_COUNTS = {"train": 6, "val": 2, "test": 3}  # images of a class


def wsolevaluation(root: Path, has_masks: bool = False, names: tuple[str, ...] = ()) -> None:
    """Draw metadata/ and dataset/ of two classes: boxes, or masks and what they ignore."""
    split_names = names or ("train", "val", "test")
    for split, name in zip(WSOL_COUNTS, split_names, strict=True):
        ids, labels, sizes, places = [], [], [], []
        for label, folder in enumerate(("001.Crested_Auklet", "002.Least_Auklet")):
            for n in range(WSOL_COUNTS[split]):
                id = f"{folder}/{split}_{n}.jpg"
                paint(root / "dataset" / id, 10 * label + n)
                ids.append(id)
                labels.append(f"{id},{label}")
                sizes.append(f"{id},{SIZE[1]},{SIZE[0]}")
                if not has_masks:
                    places.append(f"{id},{','.join(map(str, BOX))}")
                    continue
                stem = f"{folder}/{split}_{n}"
                border = np.zeros(SIZE, bool)
                border[:3] = True
                write_mask(root / "masks" / f"{stem}_a.png", object_mask())
                write_mask(root / "masks" / f"{stem}_ignore.png", border)
                places.append(f"{id},{stem}_a.png,{stem}_ignore.png")
        lists = root / "metadata" / name
        write_lines(lists / "image_ids.txt", ids)
        write_lines(lists / "class_labels.txt", labels)
        if split != "train":
            write_lines(lists / "localization.txt", places)
            if not has_masks:
                write_lines(lists / "image_sizes.txt", sizes)


def openimages(root: Path) -> None:
    wsolevaluation(root, has_masks=True)


# -- ImageNet


def imagenet(root: Path, is_flat: bool = True) -> None:
    """Draw train/ of three classes, and val/ in one folder with Kaggle's list or sorted."""
    solution = ["ImageId,PredictionString"]
    for label, synset in enumerate(SYNSETS):
        for n in range(5):
            paint(root / "train" / synset / f"{synset}_{n}.JPEG", 10 * label + n)
        for n in range(2):
            name = f"ILSVRC2012_val_{1 + 3 * n + label:08d}"
            paint(root / "val" / ("" if is_flat else synset) / f"{name}.JPEG", 50 + 10 * label + n)
            solution.append(f"{name},{synset} {' '.join(map(str, BOX))} ")
            write_voc(root / "Annotations/CLS-LOC/val" / f"{name}.xml", synset, BOX)
    if is_flat:
        write_lines(root / "LOC_val_solution.csv", solution)
    words = [f"{synset} {name}" for synset, name in zip(SYNSETS, WORDS, strict=True)]
    write_lines(root / "LOC_synset_mapping.txt", words)


def tiny_imagenet(root: Path) -> None:
    folder, lines = root / "tiny-imagenet-200", []
    write_lines(folder / "wnids.txt", [*SYNSETS])
    words = [f"{synset}\t{name}" for synset, name in zip(SYNSETS, WORDS, strict=True)]
    write_lines(folder / "words.txt", words)
    box = "\t".join(map(str, BOX))
    for label, synset in enumerate(SYNSETS):
        names = [f"{synset}_{n}.JPEG" for n in range(5)]
        for n, name in enumerate(names):
            paint(folder / "train" / synset / "images" / name, 10 * label + n, (64, 64))
        write_lines(folder / f"train/{synset}/{synset}_boxes.txt", [f"{n}\t{box}" for n in names])
        for n in range(2):
            name = f"val_{2 * label + n}.JPEG"
            paint(folder / "val/images" / name, 50 + 10 * label + n, (64, 64))
            lines.append(f"{name}\t{synset}\t{box}")
    write_lines(folder / "val/val_annotations.txt", lines)


# -- pets, dogs, cars, aircraft, Caltech 101


def pets(root: Path) -> None:
    """Draw two breeds; the outline in a trimap is a pixel wide, inside of the object's box."""
    folder = root / "oxford-iiit-pet"
    inner = np.full(SIZE, 2, np.uint8)
    x0, y0, x1, y1 = BOX
    inner[y0 - 1 : y1 + 2, x0 - 1 : x1 + 2] = 3
    inner[y0 : y1 + 1, x0 : x1 + 1] = 1
    for part, count in (("trainval", 5), ("test", 3)):
        lines = []
        for label, breed in enumerate(("Abyssinian", "american_bulldog")):
            for n in range(count):
                name = f"{breed}_{100 * (part == 'test') + n}"
                paint(folder / "images" / f"{name}.jpg", 10 * label + n)
                path = folder / "annotations/trimaps" / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(inner).save(path)
                lines.append(f"{name} {label + 1} {label + 1} 1")
        write_lines(folder / f"annotations/{part}.txt", lines)


def stanford_dogs(root: Path) -> None:
    folders = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    for part, count in (("train", 5), ("test", 3)):
        names, labels = [], []
        for label, folder in enumerate(folders):
            for n in range(count):
                stem = f"{folder}/{folder[:9]}_{100 * (part == 'test') + n}"
                paint(root / "Images" / f"{stem}.jpg", 10 * label + n)
                write_voc(root / "Annotation" / stem, folder[10:], BOX)
                names.append(f"{stem}.jpg")
                labels.append(label + 1)
        files = np.array(names, object)[:, None]
        save_mat(root / f"{part}_list.mat", file_list=files, labels=np.array(labels)[:, None])


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    models = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    save_mat(folder / "devkit/cars_meta.mat", class_names=np.array(models, object))
    kinds = [(f"bbox_{name}", object) for name in ("x1", "y1", "x2", "y2")]
    fields = np.dtype([*kinds, ("class", object), ("fname", object)])
    for part, count, name in (
        ("train", 5, "devkit/cars_train_annos.mat"),
        ("test", 3, "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for n in range(2 * count):
            paint(folder / f"cars_{part}" / f"{n + 1:05d}.jpg", n)
            rows.append((*(value + 1 for value in BOX), n % 2 + 1, f"{n + 1:05d}.jpg"))
        save_mat(folder / name, annotations=np.array(rows, fields)[None])


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    names = {"variants": ("707-320", "A300B4"), "families": ("Boeing 707", "A300"),
             "manufacturers": ("Boeing", "Airbus")}  # fmt: skip
    singular = {"variants": "variant", "families": "family", "manufacturers": "manufacturer"}
    for level, of_level in names.items():
        write_lines(data / f"{level}.txt", [*of_level])
    boxes = []
    for part, start, count in (("trainval", 0, 10), ("test", 100, 6)):
        ids = [f"{start + n:07d}" for n in range(count)]
        for n, id in enumerate(ids):
            paint(data / "images" / f"{id}.jpg", n)
            boxes.append(f"{id} {' '.join(str(value + 1) for value in BOX)}")
        for level, of_level in names.items():
            lines = [f"{id} {of_level[n % 2]}" for n, id in enumerate(ids)]
            write_lines(data / f"images_{singular[level]}_{part}.txt", lines)
    write_lines(data / "images_box.txt", boxes)


def caltech101(root: Path) -> None:
    folder = root / "caltech101"
    x0, y0, x1, y1 = (value + 1 for value in BOX)
    for name, inside in (("Faces", "Faces_2"), ("accordion", "accordion")):
        for n in range(8):
            paint(folder / "101_ObjectCategories" / name / f"image_{n + 1:04d}.jpg", n)
            path = folder / "Annotations" / inside / f"annotation_{n + 1:04d}.mat"
            save_mat(path, box_coord=np.array([[y0, y1, x0, x1]]))
    paint(folder / "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 9)


# -- PASCAL VOC, COCO

VocBox = tuple[str, tuple[int, int, int, int], bool]
"""Class, first and last pixel counted from 1, and whether it is difficult."""
DOG: VocBox = ("dog", (13, 9, 44, 32), False)
CAT: VocBox = ("cat", (2, 2, 10, 12), False)
HARD_CAT: VocBox = ("cat", (50, 30, 60, 40), True)
PERSON: VocBox = ("person", (5, 3, 30, 38), False)
VOC_OBJECTS: tuple[tuple[VocBox, ...], ...] = (
    (DOG,), (DOG, CAT), (PERSON, HARD_CAT), (CAT, DOG, PERSON), (PERSON, DOG, HARD_CAT),
)  # fmt: skip


def write_voc_objects(
    path: Path, objects: tuple[VocBox, ...], size: tuple[int, int] = SIZE
) -> None:
    """Write the annotation of an image of VOC; people have a head, which is a part."""
    texts = []
    for name, box, is_difficult in objects:
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        bndbox = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        part = f"<part><name>head</name><bndbox>{bndbox}</bndbox></part>" * (name == "person")
        texts.append(
            f"<object><name>{name}</name><difficult>{int(is_difficult)}</difficult>"
            f"<bndbox>{bndbox}</bndbox>{part}</object>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{path.stem}.jpg</filename><size><width>{size[1]}</width>"
        f"<height>{size[0]}</height><depth>3</depth></size>{''.join(texts)}</annotation>"
    )


def voc(root: Path, year: int = 2007) -> None:
    """Draw a year of VOC as it is unpacked: train, val and, of 2007, test; five images each."""
    folder = root / f"VOCdevkit/VOC{year}"
    lists: dict[str, list[str]] = {}
    parts = ("train", "val", "test") if year == 2007 else ("train", "val")
    for part_number, part in enumerate(parts):
        for n, objects in enumerate(VOC_OBJECTS):
            number = 100 * part_number + n
            stem = f"{number:06d}" if year == 2007 else f"2008_{number:06d}"
            paint(folder / f"JPEGImages/{stem}.jpg", number + year)
            write_voc_objects(folder / f"Annotations/{stem}.xml", objects)
            lists.setdefault(part, []).append(stem)
    lists["trainval"] = [*lists["train"], *lists["val"]]
    for part, stems in lists.items():
        write_lines(folder / f"ImageSets/Main/{part}.txt", stems)


def voc_mask_values(objects: tuple[VocBox, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Objects and classes of the pixels of an image of VOC; the outline of an object is void."""
    from pipeline.data.voc import CLASSES

    numbers, kinds = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for n, (name, (x0, y0, x1, y1), _) in enumerate(objects):
        for values, value in ((numbers, n + 1), (kinds, CLASSES.index(name) + 1)):
            values[y0 - 1 : y1, x0 - 1 : x1] = 255
            values[y0 : y1 - 1, x0 : x1 - 1] = value
    return numbers, kinds


def voc_masks(folder: Path, stem: str, objects: tuple[VocBox, ...]) -> None:
    """Write the masks of an image of VOC, with a palette."""
    names = ("SegmentationObject", "SegmentationClass")
    for name, values in zip(names, voc_mask_values(objects), strict=True):
        path = folder / name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(values)
        image.putpalette([value for n in range(256) for value in (n, 255 - n, n // 2)])
        image.save(path)


COCO_CATEGORIES = ((1, "person"), (18, "dog"), (90, "toothbrush"))
COCO_OBJECTS: tuple[tuple[tuple[int, list[float], int], ...], ...] = (
    ((18, [12, 8, 32, 24], 0),),
    ((18, [12, 8, 32, 24], 0), (1, [1, 1, 9.5, 11], 0), (1, [30, 20, 20, 15], 0)),
    ((90, [20, 10, 25.25, 20], 0), (1, [0, 0, 60, 12], 1)),
    (),
    ((1, [5, 5, 20, 30], 0), (90, [40, 20, 15, 15], 0)),
)
"""Category, x, y, width and height, and whether it is a crowd; the fourth image has none."""


def coco_content(part: str, year: int = 2017, first: int = 0) -> dict[str, Any]:
    """Return what a file of COCO holds, with its lists in the order of the published files."""
    prefix = f"COCO_{part}{year}_" if year == 2014 else ""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for n, objects in enumerate(COCO_OBJECTS):
        number = first + 7 * n + 9
        name = f"{prefix}{number:012d}.jpg"
        images.append({"license": 3, "file_name": name, "height": SIZE[0], "width": SIZE[1],
                       "id": number})  # fmt: skip
        for category, (x, y, w, h), is_crowd in objects:
            shape: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            if is_crowd:
                counts = [0, 12]  # column by column: twelve rows of each
                counts += [28, 12] * (SIZE[1] - 1) + [28]
                shape = {"counts": counts, "size": list(SIZE)}
            annotations.append({"segmentation": shape, "area": w * h, "iscrowd": is_crowd,
                                "image_id": number, "bbox": [x, y, w, h],
                                "category_id": category,
                                "id": 1000 * first + len(annotations) + 1})  # fmt: skip
    categories = [{"supercategory": "thing", "id": n, "name": name} for n, name in COCO_CATEGORIES]
    return {"info": {"year": year}, "licenses": [{"id": 3}], "images": images,
            "annotations": annotations, "categories": categories}  # fmt: skip


def coco(root: Path, year: int = 2017, images: str = ".") -> None:
    """Draw train and val of COCO, four labelled images each and one without an annotation."""
    for number, part in enumerate(("train", "val")):
        content = coco_content(part, year, 1000 * number)
        for n, image in enumerate(content["images"]):
            paint(root / images / f"{part}{year}" / image["file_name"], 10 * number + n)
        path = root / f"annotations/instances_{part}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
