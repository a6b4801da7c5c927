"""Top 5: the five most probable classes of some images, and the map of `saliency=` for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.engine import runtime
from pipeline.engine.methods import prepare_method
from pipeline.engine.run import Run
from pipeline.formats.files import write_json
from pipeline.ops.text import format_probability, printable
from pipeline.plotting import colours
from pipeline.plotting.grids import Cell, fit, grid, save
from pipeline.stages.inspect.inspection import Inspection

PANEL = 224
MOST = 5  # classes


def reads_data(options: Mapping[str, Any]) -> bool:
    return True


def cache_key(run: Run) -> dict[str, Any]:
    """What the maps are made of: those of the most probable classes, whatever explain.target
    says."""
    fitted_on = "train" if len(run.data.ids("train")) else run.split
    return {
        "source": run.sources("pipeline.stages.explain.stage", "saliency"),
        "saliency": run.methods[run.method],
        "views": [run.config["explain"][name] for name in ("flips", "scales")],
        "fitted_on": run.data.fingerprint(fitted_on),
        "precision": run.precision,
    }


def make(inspection: Inspection) -> list[str]:
    import torch

    run, trained = inspection.run, inspection.trained
    positions, pixels = inspection.photos()
    method = prepare_method(run, trained)
    images = trained.tensor(pixels)
    count = min(MOST, len(trained.classes))
    with runtime.autocast(run.device, run.precision):
        made = method(trained.network, images, lambda logits: logits.topk(count, dim=1).indices)
    with torch.no_grad():
        shares = made.logits.float().softmax(1).gather(1, made.classes).cpu().numpy()
    maps = made.maps.detach().float().cpu().numpy()
    labels, ids = run.data.labels(run.split), run.data.ids(run.split)
    cells, records = [], []
    for n, position in enumerate(positions):
        small = fit(pixels[n], PANEL)
        label = int(labels[position]) if run.data.classes else -1
        known = printable(trained.classes[label]) if label >= 0 else ""
        cells.append(Cell(small, printable(ids[position]), known))
        told = []
        for k, which in enumerate(made.classes[n].tolist()):
            frame = small.shape[0], small.shape[1]
            unit = colours.for_class(colours.at_frame(maps[n, k], frame), 99.0)
            name, share = printable(trained.classes[which]), float(shares[n, k])
            cells.append(Cell(colours.laid_over(small, unit), name, format_probability(share)))
            told.append({"class": name, "probability": share})
        records.append({"image": printable(ids[position]), "label": known, "top": told})
    title = f"{inspection.network_name}: the {count} most probable classes"
    notes = [f"where it looks for each: {run.method}, each map to its own maximum"]
    save(inspection.folder / "top5.png", grid(title, notes, cells, count + 1))
    kept = {"method": run.method, "images": records}
    write_json(inspection.folder / "top5.json", kept, indent=1)
    return []
