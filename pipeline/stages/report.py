"""Report: one HTML page that opens from disk: the numbers, and image, map and boxes side by side.

Pictures are inside the page, so it can be sent as it is; it asks nothing of a network.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, shards, store
from pipeline.records import SaliencyMap, SetAside
from pipeline.run import Run
from pipeline.segmenter.frame import upsampled
from pipeline.stages import explain

if TYPE_CHECKING:
    from jaxtyping import UInt8

SIDE = 240  # of a picture, its longer side
TRUE, FOUND = (255, 255, 255), (255, 64, 96)  # RGB of boxes


def made_of(run: Run) -> dict[str, Any]:
    methods = [run.for_method(name) for name in run.methods]
    return {
        "source": run.sources("report"),
        "template": store.file_fingerprint(template_path()),
        "evaluate": [one.key("evaluate") for one in methods],
        "report": run.config["report"],
        "name": run.config["name"],
        "data": run.config["data"]["_target_"],
    }


def template_path() -> Path:
    return Path(__file__).with_name("report.html")


def make(run: Run, folder: Path) -> None:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(template_path().read_text(encoding="utf-8"))
    sections = [_section(run.for_method(name)) for name in run.methods]
    page = template.render(
        title=f"{run.config['name']} on {_data_name(run)}",
        sections=sections,
        facts=_facts(run),
        notes=_notes(run),
    )
    store.write_text(folder / "index.html", page)


def _data_name(run: Run) -> str:
    root = run.config["data"].get("root")
    target = str(run.config["data"]["_target_"])
    return Path(root).resolve().name if root else target.rsplit(".", 1)[-1].lower()


def _facts(run: Run) -> list[tuple[str, str]]:
    card = checkpoint.read_card(run.checkpoint)
    model = card["model"]
    recipe = {
        "own": "the pretrained network's own head, nothing trained",
        "head": "backbone frozen, a new head trained on image labels",
        "finetune": "the whole network fine-tuned on image labels",
        "scratch": "trained from scratch on image labels",
    }[card["recipe"]]
    ids = run.data.ids(run.split)
    return [
        ("images", f"{len(ids)} ({run.split})"),
        ("classes", str(len(card["classes"]))),
        ("network", f"{model.get('name', model['_target_'].rsplit('.', 1)[-1])}, {recipe}"),
        ("input", f"{card['size'][0]} x {card['size'][1]} pixels (height x width)"),
        ("segmenter", ", ".join(f"{k}={v}" for k, v in run.config["segmenter"].items()
                                if k != "_target_")),
        ("precision", run.precision),
        ("seed", str(run.config["seed"])),
    ]  # fmt: skip


def _notes(run: Run) -> list[str]:
    """What was odd: about files, about annotations, images that were set aside."""
    bad = explain.set_aside_of(run.folder("explain"))
    listed = [f"set aside: {why}" for _, why in sorted(bad.items())[:200]]
    more = [f"... and {len(bad) - 200} more images set aside"] if len(bad) > 200 else []
    return [*run.data.notes(), *store.read_json(run.folder("evaluate") / "notes.json"), *listed,
            *more]  # fmt: skip


@dataclass(frozen=True)
class Row:
    title: str
    pictures: Sequence[Mapping[str, Any]]


def _section(run: Run) -> dict[str, Any]:
    """One method's table and gallery."""
    where = run.folder("evaluate")
    table = store.read_json(where / "table.json")
    images = store.read_json(where / "images.json")
    count = run.config["report"]["images"]
    rows = []
    scored = sorted((one for one in images if one["iou"] is not None), key=lambda one: -one["iou"])
    if scored:
        middle = max(0, len(scored) // 2 - count // 2)
        chosen = [("Best", scored[:count]), ("Median", scored[middle : middle + count]),
                  ("Worst", scored[-count:][::-1])]  # fmt: skip
    else:
        spread = np.linspace(0, len(images) - 1, min(3 * count, len(images)))
        chosen = [("A look across the images", [images[int(n)] for n in spread])] if images else []
    maps = _maps(run, {one["position"] for _, group in chosen for one in group})
    for title, group in chosen:
        pictures = [made for one in group if (made := _picture(run, one, maps)) is not None]
        rows.append(Row(title, pictures))
    return {"method": run.method, "table": table, "rows": rows,
            "curve": store.read_json(where / "curve.json")}  # fmt: skip


def _maps(run: Run, positions: set[int]) -> dict[tuple[int, int], SaliencyMap]:
    ids = run.data.ids(run.split)
    return {
        (position, saliency.explained): saliency
        for shard in shards.written(run.folder("explain"))
        for position, saliency in explain.maps_in(shard, ids)
        if position in positions
    }


def _picture(
    run: Run, one: Mapping[str, Any], maps: Mapping[tuple[int, int], SaliencyMap]
) -> dict[str, Any] | None:
    saliency = maps.get((one["position"], one["class"]))
    if saliency is None:
        return None
    height, width = saliency.size
    scale = SIDE / max(height, width)
    frame = (max(1, round(height * scale)), max(1, round(width * scale)))
    try:
        example = run.data.example(run.split, one["position"], at=frame)
    except SetAside:
        return None
    heat = blended(example.image, upsampled(saliency.raw(), frame))
    boxes = [(box, TRUE) for box in one["true"]] + [(box, FOUND) for box in one["found"][:5]]
    classes = run.classes
    return {
        "image": _embedded(drawn(example.image, boxes, scale)),
        "map": _embedded(drawn(heat, boxes, scale)),
        "width": frame[1],
        "height": frame[0],
        "id": one["id"],
        "class": classes[one["class"]],
        "predicted": classes[one["predicted"]],
        "right": one["predicted"] == one["class"],
        "iou": one["iou"],
    }


def blended(
    image: UInt8[np.ndarray, "H W 3"], heat: np.ndarray, share: float = 0.55
) -> UInt8[np.ndarray, "H W 3"]:
    """A map in [0, 1] in colours over the image, which keeps its brightness where nothing is."""
    import cv2

    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    grey = image.mean(2, keepdims=True).repeat(3, 2)
    mixed = (1 - share) * (0.6 * image + 0.4 * grey) + share * colours
    return np.ascontiguousarray(mixed.clip(0, 255).astype(np.uint8))


def drawn(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Sequence[tuple[Sequence[float], tuple[int, int, int]]],
    scale: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Boxes in original pixels over a picture scaled by `scale`, each with a dark edge."""
    import cv2

    canvas = np.array(image)  # a copy: what is drawn on stays as it was
    height, width = canvas.shape[:2]
    for box, colour in boxes:
        x0, y0, x1, y1 = (round(v * scale) for v in box)
        corners = (max(0, x0), max(0, y0)), (min(width, x1) - 1, min(height, y1) - 1)
        cv2.rectangle(canvas, *corners, (24, 24, 24), 4)
        cv2.rectangle(canvas, *corners, colour, 2)
    return canvas


def _embedded(image: UInt8[np.ndarray, "H W 3"]) -> str:
    import cv2

    whole, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])
    assert whole
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
