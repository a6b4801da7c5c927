"""First order: how far the class score is the straight line that its gradient draws.

    S_c(I) ~ w^T (I - I_0) + b        w = dS_c / dI at I_0

Simonyan, Vedaldi and Zisserman 2013, section 3.1; pipeline/visualize/linearity.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.formats.files import write_json
from pipeline.ops.hashing import hash_of
from pipeline.ops.text import printable
from pipeline.plotting import grids
from pipeline.plotting.grids import save
from pipeline.stages.inspect.inspection import Inspection, float32

# Root mean squares, in grey levels of 255, at which the line is tried.
DISTANCES = (1 / 32, 1 / 16, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CURVES = ("score", "line", "error_along", "error_random")


def reads_data(options: Mapping[str, Any]) -> bool:
    return True


def make(inspection: Inspection) -> list[str]:
    import torch

    from pipeline.visualize.linearity import first_order

    run, trained = inspection.run, inspection.trained
    positions, pixels = inspection.photos()
    network, images = trained.network, trained.tensor(pixels)
    directions = inspection.option("directions")
    # One number stands for the three channels: the units are the network's own.
    unit = 255 * float(np.mean(trained.std))
    with float32(images):
        with torch.no_grad():
            classes = network(images).logits.argmax(1)
        seeds = [int(hash_of([run.config["seed"], p]), 16) % 2**63 for p in positions]
        found = first_order(
            lambda some: network(some).logits.gather(1, classes[:, None])[:, 0],
            images,
            [r / unit for r in DISTANCES],
            directions,
            seeds,
        )
    names = [printable(trained.classes[n]) for n in classes.tolist()]
    ids = run.data.ids(run.split)
    curves = {name: getattr(found, name).double().cpu().numpy() for name in CURVES}
    facts = {
        "note": f"{len(positions)} images, the class predicted; {directions} "
        "random directions each (Simonyan et al. 2013, section 3.1)",
        "first": f"{names[0]}, {printable(ids[positions[0]])}",
    }
    arrays = {"distances": np.array(DISTANCES), **curves}
    picture = grids.first_order(inspection.network_name, facts, arrays)
    save(inspection.folder / "first_order.png", picture)
    records = [
        {
            "image": printable(ids[position]),
            "class": names[n],
            **{name: curve[n].tolist() for name, curve in curves.items()},
        }
        for n, position in enumerate(positions)
    ]
    kept = {"distances": list(DISTANCES), "images": records}
    write_json(inspection.folder / "first_order.json", kept, indent=1)
    return []
