"""Label Studio: tasks with predictions, and the labelling configuration that they need.

    tasks.json, tasks-2.json, ...    lists of tasks, to import
    label_config.xml                 the labelling configuration, to paste before the import
    README.txt                       where Label Studio finds the images, and the steps

Coordinates are percent of width and height. All boxes of an image are regions of one prediction,
whose score is that of its surest box. Only boxes that a person drew or accepted are annotations. A
mask is a region of its own, whose `parentID` is the box that it belongs to. `data` of a task has
`image_id`, `review_rank`, `review_sample` and `confidence`, which the data manager sorts by.
"""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from PIL import Image

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, write_text
from pipeline.formats.label_studio_brush import encode_brush
from pipeline.formats.outlines import Outline, OutlineCounter, trace_outline
from pipeline.formats.xml_text import is_plain, to_attribute
from pipeline.ops.text import count_note
from pipeline.types import (
    FoundBox,
    FoundBoxes,
    ImageBoxes,
    ImageSource,
    ImageWork,
    Note,
    Review,
    Size,
)

LOCAL_FILES = "/data/local-files/?d="
MAX_FILE_BYTES = 100_000_000  # Label Studio refuses uploads of more than 250 MB
DECIMALS = 6  # of percents: less than 0.001 pixel of an image 100,000 pixels wide
CONTROLS = {"rectanglelabels": "box", "polygonlabels": "polygon", "brushlabels": "brush"}


@dataclass(frozen=True)
class LabelStudio:
    """An exporter that streams tasks: memory does not grow with their number.

    Args:
        outlines: of masks: `rle`, brush masks; `polygon`, polygons.
        image_paths: how tasks name images: `local`, files that Label Studio serves itself;
            `embed`, the content of the files; `name`, relative paths; else the address of the
            folder of images, such as https://host/images/.
        document_root: for `local`: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; None: the folder above
            that of the images.
        tasks_per_file: how many tasks a file has at most.
    """

    outlines: str = "rle"
    image_paths: str = "local"
    document_root: str | None = None
    tasks_per_file: int = 10_000

    def __post_init__(self) -> None:
        """Check the form of image paths.

        Raises:
            UserError: it is none that is known.
        """
        if self.image_paths not in ("local", "embed", "name") and "://" not in self.image_paths:
            raise UserError(
                f"export.image_paths={self.image_paths}: expected local, embed, name, or the "
                "address of the folder of images, such as https://host/images/"
            )

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[str]:
        """Write tasks, configuration and steps into a folder, each atomically."""
        root = self._find_document_root(detections)
        names_of_images = _ImageNames(self.image_paths, root, detections.source)
        writer = _TaskWriter(
            names_of_images, detections.classes, detections.review, detections.model_version
        )
        encode = encode_brush if self.outlines == "rle" else trace_outline
        tasks = detections.map_images(ImageWork(writer.write, lambda mask, _: encode(mask)))
        counter = _Counter()
        names = self._write_tasks((counter.add(*each) for each in tasks), folder)
        config = describe_config(detections.classes, counter.kinds)
        write_text(folder / "label_config.xml", config)
        write_text(folder / "README.txt", _describe_steps(names, root, detections))
        return [*counter.notes(), *_note_class_names(detections.classes)]

    def _find_document_root(self, detections: FoundBoxes) -> Path | None:
        """Return the folder that local paths are relative to; None where none are written."""
        source = detections.source
        if self.image_paths != "local" or source is None or source.root is None:
            return None
        # Label Studio accepts as a storage a folder below the root, not the root itself.
        return source.root.parent if self.document_root is None else Path(self.document_root)

    def _write_tasks(self, tasks: Iterator[str], folder: Path) -> list[str]:
        """Write tasks into as many files as they need, and return the names of these."""
        names: list[str] = []
        task = next(tasks, None)
        while task is not None or not names:
            name = f"tasks-{len(names) + 1}.json" if names else "tasks.json"
            names.append(name)
            with atomic_write(folder / name) as path, path.open("w", encoding="utf-8") as file:
                count = size = 0
                while task is not None and count < self.tasks_per_file and size < MAX_FILE_BYTES:
                    file.write((",\n" if count else "[\n") + task)
                    count, size, task = count + 1, size + len(task), next(tasks, None)
                file.write("\n]\n" if count else "[]\n")
        return names


# -- tasks


Shown = Literal["as it is", "without_file", "hidden"]
"""Whether Label Studio can show an image: `without_file`, as its content is embedded; `hidden`: it
is not known to be anywhere."""


@dataclass(frozen=True)
class _ImageNames:
    """How tasks name images.

    Attributes:
        form: the option `image_paths`.
        document_root: of local files.
        source: where the images are.
    """

    form: str
    document_root: Path | None
    source: ImageSource | None

    def find(self, image: ImageBoxes) -> tuple[str, Shown]:
        """Return what `data.image` of the task of an image holds, and what that shows."""
        source = self.source
        if self.form == "name":
            return image.id, "as it is"
        if "://" in self.form:
            return f"{self.form.rstrip('/')}/{quote(os.fsencode(image.id))}", "as it is"
        if source is None:
            return image.id, "hidden"
        path = source.path(image.position)
        if path is None:
            content = io.BytesIO()
            Image.fromarray(source.read(image.position)).save(content, "PNG")
            return _to_data_address(content.getvalue(), "image/png"), "without_file"
        if self.form == "embed":
            kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
            return _to_data_address(path.read_bytes(), kind), "as it is"
        return LOCAL_FILES + quote(os.fsencode(self._to_relative(path))), "as it is"

    def _to_relative(self, path: Path) -> str:
        assert self.document_root is not None
        try:
            return path.relative_to(self.document_root).as_posix()
        except ValueError:
            raise UserError(
                f"{path} is not below document_root={self.document_root} of exporter label_studio, "
                "from which Label Studio serves local files; give a folder above all images"
            ) from None


def _to_data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


class _Task(NamedTuple):
    """A task, and what notes and the labelling configuration need of it.

    Attributes:
        text: JSON.
        kinds: of its regions.
        shown: whether Label Studio can show the image.
        is_clipped: whether a score is no probability.
        ious: of the outlines of its masks.
    """

    text: str
    kinds: frozenset[str]
    shown: Shown
    is_clipped: bool
    ious: list[float]


_Mask = list[int] | Outline | None
"""A brush mask, or an outline."""


@dataclass(frozen=True)
class _TaskWriter:
    """Describes images as tasks.

    Attributes:
        names: how images are named.
        classes: names of the classes.
        review: the order in which to look at the images.
        model_version: what found the boxes.
    """

    names: _ImageNames
    classes: Sequence[str]
    review: Review | None
    model_version: str

    def write(self, image: ImageBoxes, masks: Sequence[_Mask]) -> _Task:
        """Return the task of an image."""
        regions = [
            region
            for number, (item, mask) in enumerate(zip(image.boxes, masks, strict=True), 1)
            for region in self._describe_box(item, number, image, mask)
        ]
        name, shown = self.names.find(image)
        task: dict[str, Any] = {"data": self._describe_data(image, name)}
        if image.is_human:
            # Label Studio marks imported annotations as ground truth unless they say otherwise.
            task["annotations"] = [
                {"result": regions, "was_cancelled": False, "ground_truth": False}
            ]
        elif regions:
            score = max(_score(item)[0] for item in image.boxes)
            version = self.model_version
            task["predictions"] = [{"model_version": version, "score": score, "result": regions}]
        else:
            task["predictions"] = []
        return _Task(
            json.dumps(task, allow_nan=False),
            frozenset(region["type"] for region in regions),
            shown,
            any(_score(item)[1] for item in image.boxes if not item.is_human),
            [mask.iou for mask in masks if isinstance(mask, Outline)],
        )

    def _describe_data(self, image: ImageBoxes, name: str) -> dict[str, Any]:
        data: dict[str, Any] = {"image": name, "image_id": image.id}
        known = [item.confidence for item in image.boxes if item.confidence is not None]
        if known:
            data["confidence"] = round(max(known), 5)
        if self.review is not None:
            data["review_rank"] = int(self.review.ranks[image.position])
            data["review_sample"] = bool(self.review.sampled[image.position])
        return data

    def _describe_box(
        self, item: FoundBox, number: int, image: ImageBoxes, mask: _Mask
    ) -> Iterator[dict[str, Any]]:
        """Yield the region of a box, and that of its mask, which names the box as its parent."""
        label = self.classes[item.label]
        score = None if item.is_human else _score(item)[0]
        height, width = image.size
        x0, y0, x1, y1 = item.box
        place = {
            "x": _percent(x0, width),
            "y": _percent(y0, height),
            "width": _percent(x1 - x0, width),
            "height": _percent(y1 - y0, height),
            "rotation": 0,
        }
        box_id = f"box-{number}"
        yield _describe_region(box_id, "rectanglelabels", place, label, image.size, score)
        for part, (kind, value) in enumerate(_describe_mask(mask, image.size), 1):
            region = _describe_region(
                f"mask-{number}-{part}", kind, value, label, image.size, score
            )
            yield {**region, "parentID": box_id}


def _score(item: FoundBox) -> tuple[float, bool]:
    """Return the confidence, else the score, and whether it had to be clipped.

    Label Studio refuses values outside of [0, 1].
    """
    score = item.score if item.confidence is None else item.confidence
    return round(min(max(score, 0.0), 1.0), 5), not 0 <= score <= 1


def _describe_mask(mask: _Mask, size: Size) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and value of the regions of a mask."""
    if isinstance(mask, Outline):
        height, width = size
        for polygon in mask.polygons:
            points = [[_percent(x, width), _percent(y, height)] for x, y in polygon.tolist()]
            yield "polygonlabels", {"points": points, "closed": True}
    elif mask is not None:
        yield "brushlabels", {"format": "rle", "rle": mask}


@dataclass
class _Counter:
    """Counts what is not written as it is.

    Attributes:
        kinds: the kinds of regions that tasks have.
        clipped: ids of images with a score that is no probability.
        without_file: ids of images that are not files, whose content is embedded.
        hidden: ids of images that are not known to be anywhere.
        outline_counter: counts polygons that are not exactly the mask.
    """

    kinds: set[str] = field(default_factory=lambda: {"rectanglelabels"})
    clipped: list[str] = field(default_factory=list)
    without_file: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    outline_counter: OutlineCounter = field(default_factory=OutlineCounter)

    def add(self, image: ImageBoxes, task: _Task) -> str:
        """Count the task of an image, and return its text."""
        self.kinds |= task.kinds
        self.outline_counter.add(image.id, task.ious)
        if task.is_clipped:
            self.clipped.append(image.id)
        if task.shown == "without_file":
            self.without_file.append(image.id)
        elif task.shown == "hidden":
            self.hidden.append(image.id)
        return task.text

    def notes(self) -> list[Note]:
        """Return what was not written as it is."""
        notes = self.outline_counter.notes()
        for names, why in (
            (self.clipped, "have a score outside of 0 to 1, which Label Studio refuses: clipped"),
            (self.without_file, "are no files: their content is in the tasks"),
            (self.hidden, "are no files that are known: Label Studio cannot show them"),
        ):
            if names:
                notes.append(count_note(names, "image", why))
        return notes


def _percent(value: float, side: int) -> float:
    return round(100 * value / side, DECIMALS)


def _describe_region(
    id: str, kind: str, value: dict[str, Any], label: str, size: Size, score: float | None
) -> dict[str, Any]:
    """Return a region of a kind, which has the class in the field of that name."""
    region = {
        "id": id,
        "type": kind,
        "from_name": CONTROLS[kind],
        "to_name": "image",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }
    return region if score is None else {**region, "score": score}


# -- configuration and steps


def describe_config(classes: Any, kinds: set[str]) -> str:
    """Return the labelling configuration.

    Args:
        classes: names of the classes.
        kinds: `rectanglelabels`, `polygonlabels`, `brushlabels`: the regions that it needs.
    """
    labels = "".join(f"    <Label value={to_attribute(name)}/>\n" for name in classes)
    tags = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels",
            "brushlabels": "BrushLabels"}  # fmt: skip
    controls = "".join(
        f'  <{tag} name="{CONTROLS[kind]}" toName="image">\n{labels}  </{tag}>\n'
        for kind, tag in tags.items()
        if kind in kinds
    )
    image = '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
    return f"<View>\n{image}{controls}</View>\n"


def _note_class_names(classes: Any) -> list[Note]:
    odd = [name for name in classes if not is_plain(name)]
    why = "have characters that XML cannot hold: escaped in label_config.xml alone"
    return [count_note(odd, "class", why)] if odd else []


def _describe_steps(names: list[str], root: Path | None, detections: FoundBoxes) -> str:
    """Return the text of README.txt."""
    lines = ["Predicted boxes for Label Studio, written by label2box", ""]
    steps = []
    if root is not None and detections.source is not None:
        steps += [
            "Start Label Studio where it finds the images:\n"
            "     export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true\n"
            f"     export LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(root))}\n"
            "     label-studio start",
        ]
    steps.append(
        "Create a project; Settings > Labeling Interface > Code: paste label_config.xml, Save."
    )
    if root is not None and detections.source is not None:
        steps.append(
            "Settings > Cloud Storage > Add Source Storage > Local files; absolute local path\n"
            f"     {detections.source.root}\n"
            "   Save it without a sync: it gives the project the right to show these files."
        )
    steps += [
        f"Import: {', '.join(names)}.",
        "Data manager: sort by review_rank. Its first images are a random sample, the others\n"
        "   follow by doubt. Correct the boxes, and Submit each image that you looked at.",
        "Export > JSON. That file holds what you submitted.",
    ]
    lines += [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join(lines) + "\n"
