"""Report: one HTML page that opens from disk: the numbers, and image, map and boxes side by side.

Pictures are inside the page, so it can be sent as it is; it asks nothing of a network. Of several
methods the numbers stand in one table, and each image is shown once, with every method's map.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, runtime, store
from pipeline.engine.run import Run
from pipeline.errors import SkippedImage
from pipeline.formats.files import read_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.ops.maps import upsample
from pipeline.ops.text import printable
from pipeline.plotting.boxes import PALETTE
from pipeline.plotting.colours import blended
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps, load_skipped
from pipeline.results.shards import list_shards
from pipeline.results.skipped import SKIPPED_FILE
from pipeline.results.table import to_percent
from pipeline.types import Boxes, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import UInt8

SIDE = 240  # of a picture, its longer side
MOST_BOXES = 5  # drawn for one image
DARK, TRUE, FOUND = (24, 24, 24), (255, 255, 255), PALETTE[0]  # RGB; TRUE is dashed


def cache_key(run: Run) -> dict[str, Any]:
    methods = [run.for_method(name) for name in run.methods]
    return {
        "source": run.sources(__name__),
        "template": hash_file(template_path()),
        "evaluate": [one.key("evaluate") for one in methods],
        "compare": run.key("compare") if "compare" in run.config["stages"] else None,
        "report": run.config["report"],
        "title": _title(run),
        "links": _links(run),
        "notes": run.data.notes(),
    }


def template_path() -> Path:
    return Path(__file__).with_name("page.html")


def make(run: Run, folder: Path) -> None:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(template_path().read_text(encoding="utf-8"))
    sections = [Section(run.for_method(name)) for name in run.methods]
    gallery = _gallery(run, sections)
    shapes = [p["width"] / p["height"] for row in gallery for p in row["pictures"]]
    page = template.render(
        title=_title(run),
        facts=_facts(run, sections[0].images),
        sections=sections,
        comparison=_comparison(sections) if len(sections) > 1 else None,
        differences=_differences(run),
        unmeasured=_unmeasured(run, sections[0].images),
        gallery=gallery,
        aspect=float(np.clip(np.median(shapes), 0.75, 1.5)) if shapes else 1,
        labelled=bool(run.data.classes),
        keys={"annotated": _key(TRUE, True), "found": _key(FOUND, False)},
        notes=_notes(run),
        links=_links(run),
        essentials=_essentials(run),
        made=store.provenance(),
    )
    write_text(folder / "index.html", page)


# -- words and numbers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """What evaluate left of one method."""

    run: Run

    @property
    def method(self) -> str:
        return self.run.method

    @cached_property
    def table(self) -> dict[str, Any]:
        return dict(read_json(self.run.folder("evaluate") / "table.json"))

    @cached_property
    def images(self) -> list[dict[str, Any]]:
        return list(read_json(self.run.folder("evaluate") / "images.json"))

    @cached_property
    def curve(self) -> dict[str, Any]:
        return dict(read_json(self.run.folder("evaluate") / "curve.json"))


def _title(run: Run) -> str:
    root = run.config["data"].get("root")
    data = Path(root).resolve().name if root else _choice(run.config["data"])
    name = str(run.config["name"])
    experiment = "" if name in run.methods else f"{name}: "
    return printable(f"{experiment}{', '.join(run.methods)} on {data}")


def _choice(node: Mapping[str, Any]) -> str:
    """The name that a configuration's node is chosen by: its file's."""
    return str(node["_target_"]).split(".")[-2]


def _localizer(card: Mapping[str, Any]) -> list[str]:
    """What stage refine found, where it ran."""
    if "refine" not in card:
        return []
    found = card["refine"]
    so = (
        "stands alone"
        if card["branches"]["foreground"]["alone"]
        else "in the mean with its teacher"
    )
    return [f"localizer taught by {found['learned_from']} masks of training images, {so}"]


def _facts(run: Run, images: Sequence[Mapping[str, Any]]) -> list[str]:
    card = checkpoint.read_card(run.checkpoint)
    recipe = {
        "own": "the pretrained network's own head, nothing trained",
        "head": "backbone frozen, a new head trained on image labels",
        "finetune": "the whole network fine-tuned on image labels",
        "scratch": "trained from scratch on image labels",
    }[card["recipe"]]
    count, aside = len(run.data.ids(run.split)), len(load_skipped(run.folder("explain")))
    scored = sum(one["iou"] is not None for one in images)
    counted = [f"{count} images" + (f" ({run.split})" if run.data.classes else "")]
    counted += [f"{aside} set aside"] if aside else []
    counted += [f"{scored} scored"] if 0 < scored < count - aside else []
    return [
        ", ".join(counted),
        f"{len(card['classes'])} classes",
        f"{_network(card)}, {recipe}",
        *_localizer(card),
        f"input {card['size'][0]} x {card['size'][1]} pixels (height x width)",
        f"precision {run.precision}",
    ]


def _network(card: Mapping[str, Any]) -> str:
    return str(card["model"].get("name", _choice(card["model"])))


def _essentials(run: Run) -> str:
    """The run as a command line would say it; without paths, as the page may be sent away."""
    segmenter = run.config["segmenter"]
    arguments = [f"segmenter.{k}={v}" for k, v in segmenter.items() if k != "_target_"]
    return " ".join([
        f"data={_choice(run.config['data'])}",
        f"model={_network(checkpoint.read_card(run.checkpoint))}",
        f"saliency={','.join(run.methods)}",
        f"segmenter={_choice(segmenter)}",
        *arguments,
        f"seed={run.config['seed']}",
    ])  # fmt: skip


def _links(run: Run) -> list[str]:
    """What lies beside the page in the run's folder, of the stages that this run has."""
    files = {"localize": ("boxes.json", "predictions.json"), "evaluate": ("metrics.json",),
             "compare": ("comparison.json",)}  # fmt: skip
    found = [name for stage in run.config["stages"] for name in files.get(stage, ())]
    return [*found, "config.yaml"]


def _comparison(sections: Sequence[Section]) -> dict[str, Any]:
    """A row for each method, a column for each number; and a curve for each at IoU 0.5."""
    cards = [[c for c in section.table["cards"] if c["of_boxes"]] for section in sections]
    best = [max(c["number"] for c in column) for column in zip(*cards, strict=True)]
    lines = [
        {"name": section.method, "points": line["points"]}
        for section in sections
        for line in section.curve["lines"]
        if line["iou"] == 0.5
    ]
    return {
        "columns": cards[0],
        "rows": [
            (section.method, [(c, c["number"] > b - 1e-9) for c, b in zip(row, best, strict=True)])
            for section, row in zip(sections, cards, strict=True)
        ],
        "lines": lines,
    }


def _differences(run: Run) -> list[dict[str, Any]]:
    """What stage compare found, a section for each pair: sentences, and a row for each number."""
    if "compare" not in run.config["stages"]:
        return []
    return [
        {
            "title": f"{one['b']} against {one['a']}",
            "sentences": one["sentences"],
            "notes": one["notes"],
            "test": one["test"],
            "corrected_for": one["corrected_for"],
            "rows": [_difference(each["title"], each["record"]) for each in one["differences"]],
        }
        for one in read_json(run.folder("compare") / "comparison.json")
    ]


def _difference(name: str, record: Mapping[str, Any]) -> list[str]:
    kind = (record["threshold"] or {}).get("kind")
    at = "" if record["iou"] is None else f" @{record['iou']:g}"
    low, high = record["interval"]
    return [f"{name}{at}{f' ({kind})' if kind else ''}", to_percent(record["value"]),
            f"{to_percent(low)} to {to_percent(high)}", f"{record['p_value']:.2g}",
            str(record["n"])]  # fmt: skip


def _unmeasured(run: Run, images: Sequence[Mapping[str, Any]]) -> str | None:
    """Why no box was measured, and what to do; None where some were."""
    if any(one["iou"] is not None for one in images):
        return None
    if not run.data.classes:
        return ("These images have no labels: boxes are shown for what the classifier takes them "
                "for, and nothing is measured.")  # fmt: skip
    if not images:
        return ("No box was measured: only images of the split val are scored, at maps of their "
                "own class; see explain.split and explain.target.")  # fmt: skip
    if read_json(run.folder("evaluate") / "notes.json"):
        return "No box was measured: no image has an annotated box of its own class; see the notes."
    how = (
        " To measure them, give data.boxes=FILE (COCO JSON), or put instances_val.json into "
        "data.root, and run the same command again: nothing is trained anew."
        if "boxes" in run.config["data"]
        else ""
    )
    return f"No box was measured, as these images have no annotations.{how}"


def _notes(run: Run) -> list[str]:
    """What was odd: about files, about annotations, images that were set aside."""
    bad = load_skipped(run.folder("explain"))
    of_train = run.checkpoint / SKIPPED_FILE
    learned = read_json(of_train) if of_train.is_file() else []
    reasons = [f"set aside in training: {why}" for why in learned]
    reasons += [f"set aside: {why}" for _, why in sorted(bad.items())]
    listed = reasons[:200]
    more = [f"... and {len(reasons) - 200} more images set aside"] if len(reasons) > 200 else []
    return [*run.data.notes(), *read_json(run.folder("evaluate") / "notes.json"), *listed,
            *more]  # fmt: skip


# -- pictures ------------------------------------------------------------------------------------


def chosen(
    images: Sequence[Mapping[str, Any]], count: int
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Rows of images to show: the best, the middle and the worst `count`, each image at most once.

    All in one row where there are no more than that; a look across them where none is scored.
    """
    first: dict[int, Mapping[str, Any]] = {}
    for one in images:
        first.setdefault(one["position"], one)
    every = list(first.values())
    scored = sorted((one for one in every if one["iou"] is not None), key=lambda one: -one["iou"])
    wanted = min(3 * count, len(every))
    if not wanted:
        return []
    if not scored:
        title = "All images" if wanted == len(every) else "A look across the images"
        return [(title, [every[n * len(every) // wanted] for n in range(wanted)])]
    if len(scored) <= 3 * count:
        return [("All, best first", scored)]
    middle = (len(scored) - count) // 2
    return [("Best", scored[:count]), ("Median", scored[middle : middle + count]),
            ("Worst", scored[-count:][::-1])]  # fmt: skip


def _gallery(run: Run, sections: Sequence[Section]) -> list[dict[str, Any]]:
    rows = chosen(sections[0].images, run.config["report"]["images"])
    positions = {one["position"] for _, group in rows for one in group}
    seen = [Seen.of(section, positions) for section in sections]
    return [
        {
            "title": title,
            "pictures": [
                made
                for made in runtime.map_in_threads(
                    lambda one: _picture(run, one, seen), group, run.workers
                )
                if made is not None
            ],
        }
        for title, group in rows
    ]


@dataclass(frozen=True)
class Seen:
    """What one method made of the images that are shown, by position."""

    method: str
    maps: Mapping[tuple[int, int], SaliencyMap]  # position and class
    boxes: Mapping[int, Sequence[Boxes]]
    ious: Mapping[int, float | None]

    @classmethod
    def of(cls, section: Section, positions: set[int]) -> Seen:
        run = section.run
        ids = run.data.ids(run.split)
        maps = {
            (position, saliency.explained): saliency
            for shard in list_shards(run.folder("explain"))
            for position, saliency in iterate_maps(shard, ids)
            if position in positions
        }
        boxes: dict[int, list[Boxes]] = {}
        for position, found in iterate_boxes(run.folder("localize"), ids):
            if position in positions:
                boxes.setdefault(position, []).append(found)
        return cls(section.method, maps, boxes, {i["position"]: i["iou"] for i in section.images})


def _picture(run: Run, one: Mapping[str, Any], seen: Sequence[Seen]) -> dict[str, Any] | None:
    """An image, and beside it each method's map with its boxes; None where it is gone since."""
    position, label = one["position"], one["class"]
    height, width = seen[0].maps[position, label].size
    scale = SIDE / max(height, width)
    frame = (max(1, round(height * scale)), max(1, round(width * scale)))
    try:
        image = run.data.example(run.split, position, at=frame).image
    except SkippedImage:
        return None
    true = [(box, TRUE, True) for box in one["true"]]
    labelled = bool(run.data.classes)
    plain, panels = drawn(image, true, scale), []
    for method in seen:
        if (saliency := method.maps.get((position, label))) is None:
            continue
        found = [
            (each.label, box, score)
            for each in method.boxes.get(position, ())
            if each.label == label or not labelled
            for box, score in zip(each.boxes.tolist(), each.scores.tolist(), strict=True)
        ][:MOST_BOXES]
        colours = dict(zip(dict.fromkeys(c for c, _, _ in found), cycle(PALETTE), strict=False))
        boxes = [*true, *((box, colours[c], False) for c, box, _ in reversed(found))]
        if len(seen) == 1:  # of several, each has its boxes on its map alone
            plain = drawn(image, boxes, scale)
        heat = blended(image, upsample(saliency.raw(), frame))
        panels.append({
            "method": method.method,
            "picture": _embedded(drawn(heat, boxes, scale)),
            "iou": method.ious.get(position),
            "found": [] if labelled else [
                (run.classes[c], f"{score:.2f}", "#{:02x}{:02x}{:02x}".format(*colours[c]))
                for c, _, score in found
            ],
        })  # fmt: skip
    return {
        "picture": _embedded(plain),
        "panels": panels,
        "width": frame[1],
        "height": frame[0],
        "id": one["id"],
        "name": shortened(one["id"].rsplit("/", 1)[-1]),
        "class": run.classes[label] if labelled else None,
        "predicted": run.classes[one["predicted"]],
        "right": one["predicted"] == label,
    }


def shortened(name: str, most: int = 36) -> str:
    """Both ends of a long name: images of one camera differ in the last digits."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def drawn(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Sequence[tuple[Sequence[float], tuple[int, int, int], bool]],
    scale: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Boxes in original pixels, each of a colour with a dark edge, some dashed, over a picture
    scaled by `scale`. What is dashed lies on top: through its gaps the rest can be seen."""
    import cv2

    canvas = np.array(image)  # a copy: what is drawn on stays as it was
    height, width = canvas.shape[:2]
    y, x = np.indices((height, width))
    dashes = ((x + y) % 12 < 7)[..., None]
    for box, colour, dashed in sorted(boxes, key=lambda one: one[2]):
        x0, y0, x1, y1 = (round(v * scale) for v in box)
        # What lies on the picture's border is moved inside, where all of the line can be seen.
        corners = (max(2, x0), max(2, y0)), (min(width - 2, x1) - 1, min(height - 2, y1) - 1)
        lines = np.array(canvas)
        cv2.rectangle(lines, *corners, DARK, 4)
        cv2.rectangle(lines, *corners, colour, 2)
        canvas = np.where(dashes, lines, canvas) if dashed else lines
    return canvas


def _key(colour: tuple[int, int, int], dashed: bool) -> str:
    """A box as it is drawn, on a ground from dark to light, for the legend."""
    ground = np.linspace(70, 225, 64, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    return _embedded(drawn(ground, [((8, 7, 56, 25), colour, dashed)], 1))


def _embedded(image: UInt8[np.ndarray, "H W 3"]) -> str:
    import cv2

    # Colour in full resolution: thin lines would turn grey without.
    how = [cv2.IMWRITE_JPEG_QUALITY, 82,
           cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip
    whole, data = cv2.imencode(".jpg", image[..., ::-1], how)
    assert whole
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
