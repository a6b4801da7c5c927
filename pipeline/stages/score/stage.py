"""Score: what anyone made, against annotations: boxes of a COCO results file, or a folder of maps.

    python -m pipeline +experiment=evaluate boxes=theirs.json annotations=instances.json
    python -m pipeline +experiment=evaluate maps=theirs/ metadata=metadata/val
    ... against=others.json      the same images scored again, and whether the difference is luck

    metrics.json     every number with what it stands on, `group` says of which images
    table.json, table.txt, images.json, curve.json     as stage evaluate writes them; what is
                     compared with has its images in images_against.json
    comparison.json  against=: each difference, its interval, p, and a sentence
    notes.json       what was left out, counted and named

Boxes: a unit is one class in one image, and its box the best-scored of that class. Every annotated
unit counts, with or without a box. Top-k Loc is given where results name classes that are not
there, else they were given the class and did not predict it. COCO's numbers are pycocotools' own,
on all images that the annotations list. Maps: `protocol=default` measures them as the rest of the
project does, `protocol=wsolevaluation` with that evaluator's habits, at 224x224.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.formats import coco, wsolevaluation
from pipeline.formats.files import write_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.results.comparison import TEST, differences
from pipeline.results.table import build_table, format_table
from pipeline.stages.score.boxes import Known, score_boxes
from pipeline.stages.score.maps import score_maps
from pipeline.stages.score.scored import Asked, Grouped, Scored

# -- the stage -----------------------------------------------------------------------------------


def check(run: Run) -> None:
    """Refuse what cannot be scored, before anything is computed."""
    config = run.config
    boxes, maps = config["boxes"], config["maps"]
    if boxes is None and maps is None:
        raise UserError(
            "boxes=null, maps=null: nothing to score; give boxes=RESULTS.json "
            "annotations=INSTANCES.json, or maps=FOLDER"
        )
    if boxes is not None and maps is not None:
        raise UserError(
            f"boxes={boxes}, maps={maps}: one of them is scored in a run; leave one away"
        )
    if boxes is not None:
        if config["annotations"] is None:
            raise UserError(
                f"boxes={boxes}: nothing to score them against; give annotations=INSTANCES.json, "
                "a COCO data set"
            )
        _refuse(config, "metadata", "it belongs to maps=; boxes= wants annotations=")
        if config["protocol"] != "default":
            raise UserError(
                f"protocol={config['protocol']}: it measures maps, boxes= has none; leave it away"
            )
        for key in ("boxes", "annotations", "against"):
            if config[key] is not None and not Path(config[key]).is_file():
                raise UserError(f"{key}={config[key]}: no such file; expected a COCO file (JSON)")
        return
    _refuse(config, "annotations", "it belongs to boxes=; maps= wants metadata=FOLDER")
    for key in ("maps", "metadata", "against"):
        if config[key] is not None and not Path(config[key]).is_dir():
            raise UserError(f"{key}={config[key]}: no such folder")
    wsolevaluation.check(_metadata(config))


def _refuse(config: Mapping[str, Any], key: str, why: str) -> None:
    if config[key] is not None:
        raise UserError(f"{key}={config[key]}: {why}; leave it away")


def _metadata(config: Mapping[str, Any]) -> Path:
    return Path(config["maps"] if config["metadata"] is None else config["metadata"])


def cache_key(run: Run) -> dict[str, Any]:
    config = run.config
    made = {
        "source": run.sources(__name__),
        "names": names(config),
        "evaluate": config["evaluate"],
        "seed": config["seed"],
    }
    if config["boxes"] is not None:
        return made | {
            key: None if config[key] is None else hash_file(Path(config[key]))
            for key in ("boxes", "against", "annotations")
        }
    return made | {
        "maps": wsolevaluation.maps_fingerprint(Path(config["maps"])),
        "against": None
        if config["against"] is None
        else wsolevaluation.maps_fingerprint(Path(config["against"])),
        "metadata": wsolevaluation.fingerprint(_metadata(config)),
        "protocol": config["protocol"],
        "threshold": dict(Asked.of(run).threshold),
    }


def names(config: Mapping[str, Any]) -> list[str]:
    """What the table calls those that are scored: as little of their paths as tells them apart."""
    given = [config["boxes"] or config["maps"], config["against"]]
    parts = [Path(one).absolute().parts for one in given if one is not None]
    if len(parts) == 2 and parts[0] == parts[1]:
        return [parts[0][-1], f"{parts[1][-1]} (against)"]
    length = 1
    while len(parts) == 2 and parts[0][-length:] == parts[1][-length:]:
        length += 1
    return ["/".join(one[-length:]).lstrip("/") for one in parts]


def make(run: Run, folder: Path) -> None:
    config, asked = run.config, Asked.of(run)
    scored: list[Scored] = []
    if config["boxes"] is not None:
        known = Known(coco.read(Path(config["annotations"])))
        for n, key in enumerate(("boxes", "against") if config["against"] else ("boxes",)):
            scored.append(score_boxes(Path(config[key]), known, asked, folder / _images(n)))
        general = known.notes
    else:
        metadata = wsolevaluation.read(_metadata(config))
        for n, key in enumerate(("maps", "against") if config["against"] else ("maps",)):
            scored.append(score_maps(Path(config[key]), metadata, asked, folder / _images(n)))
        general = list(metadata.notes)
    _write(folder, names(config), scored, general, asked)


def _images(n: int) -> str:
    return "images.json" if n == 0 else "images_against.json"


def _write(
    folder: Path,
    called: Sequence[str],
    scored: Sequence[Scored],
    general: Sequence[str],
    asked: Asked,
) -> None:
    records: list[dict[str, Any]] = []
    texts: list[str] = []
    tables = []
    for name, one in zip(called, scored, strict=True):
        found = one.scores(name)
        records += [{**score.record(), "group": group} for score, group in found]
        tables.append(_table(found, one.classes))
        texts.append(format_table(name, tables[-1]))
    notes = [*general, *(note for one in scored for note in one.notes)]
    if len(scored) == 2:
        told = _compared(scored[0], scored[1], called, asked.seed)
        write_json(folder / "comparison.json", told, indent=1)
        records += [one["record"] for one in told["differences"]]
        texts.append(told["sentence"] + "\n")
    if notes:
        texts.append("".join(f"note: {note}\n" for note in notes))
    write_json(folder / "metrics.json", records, indent=1)
    write_json(folder / "table.json", tables[0])
    write_json(folder / "curve.json", scored[0].curve())
    write_json(folder / "notes.json", notes)
    write_text(folder / "table.txt", "\n".join(texts))


# -- two of them, compared ----------------------------------------------------------------------


def _compared(a: Scored, b: Scored, called: Sequence[str], seed: int) -> dict[str, Any]:
    """Each number that both have, on the images that both have."""
    found = differences(a.pairs(), b.pairs(), called, a.unit, seed)
    if not found:
        raise UserError(
            f"against={called[1]}: no image was scored in both, so nothing can be compared"
        )
    return {
        "a": called[0],
        "b": called[1],
        "sentence": found[0]["sentence"],
        "test": TEST,
        "differences": found,
    }


# -- the table ----------------------------------------------------------------------------------


def _table(found: Sequence[Grouped], classes: Sequence[str]) -> dict[str, Any]:
    """Stage evaluate's table."""
    return build_table([score for score, group in found if group in (None, "class")], classes)
