"""Stage onnx: the network with its heads as one ONNX file, which runs without this project.

    network.onnx    pixels in, logits, map, box and score out (graph.py)
    onnx.json       what stands in the file, and how far ONNX Runtime differs from PyTorch

The network is that of the run: the refined one where the run has stage refine. With `run=RUN`, as
in `+experiment=onnx run=outputs/latest`, it is that of RUN. docs/onnx.md shows how to use the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, terminal
from pipeline.engine.stage import Published, Stage
from pipeline.engine.store import list_versions
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.files import read_json, write_json
from pipeline.results.notes import write_notes
from pipeline.results.thresholds import USED_IOU
from pipeline.stages.onnx.config import OnnxOptions

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from pipeline.engine.checkpoint import Checkpoint
    from pipeline.engine.run import Run
    from pipeline.stages.onnx.graph import GraphOptions

MAX_DIFFERENCE = 1e-4  # of an output, relative to its largest magnitude where that is above 1
COMPARED_IMAGES = 8
EACH_CLASS = "sigmoid of each logit: an image may have several classes; all have map, box and score"


class Onnx(Stage):
    """The network with its heads as one ONNX file."""

    name = "onnx"
    after = ("train", "refine", "calibrate")
    needs = ("train",)
    options = OnnxOptions
    reads = ("run",)
    publishes = (Published("network.onnx", how="link"), Published("onnx.json"))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the file."""
        versions = list_versions()
        return {
            "source": run.sources(__name__, "saliency"),
            "checkpoint": checkpoint.fingerprint(run.checkpoint),
            "onnx": run.config["onnx"],
            "saliency": run.methods[run.method],
            "views": [run.config["explain"][name] for name in ("flips", "scales")],
            "segmenter": run.config["segmenter"],
            "calibrate": self._calibration_key(run),
            "size": run.size,
            "torch": versions["torch"],
        }

    def check(self, run: Run) -> None:
        """Raise UserError where a package of the extra `onnx` is not installed."""
        from pipeline.stages.onnx.export import check_installed

        check_installed()

    def run(self, run: Run, folder: Path) -> None:
        """Write the file and compare it with the network.

        Raises:
            UserError: the network has no map that ONNX can compute, or the file computes otherwise.
        """
        import torch

        from pipeline.stages.onnx.content import choose_map, choose_threshold
        from pipeline.stages.onnx.export import compare_with_file, write_onnx
        from pipeline.stages.onnx.graph import ExportedNetwork, GraphOptions

        trained = checkpoint.load(run.checkpoint, torch.device("cpu"))
        kind, notes = choose_map(trained.network, run.saliency(), run.method)
        wanted, segmenter = run.config["onnx"]["threshold"], run.config["segmenter"]
        threshold, about = choose_threshold(wanted, segmenter, self._validation_threshold(run))
        options = GraphOptions(
            size=run.size,
            mean=trained.mean,
            std=trained.std,
            kind=kind,
            threshold=threshold,
            is_of_each_class=trained.network.answers == "independent",
        )
        network = ExportedNetwork(trained.network, options).eval()
        path = folder / "network.onnx"
        metadata = self._describe(run, trained, options)
        write_onnx(path, network, run.config["onnx"]["opset"], metadata)
        images = self._read_images(run)
        differences = compare_with_file(path, network, images)
        _check_differences(differences, min(run.size))
        record = {**{key: json.loads(text) for key, text in metadata.items()},
                  "difference_to_pytorch": differences, "compared_images": len(images)}  # fmt: skip
        write_json(folder / "onnx.json", record, indent=1)
        write_notes(folder, [*notes, *about])
        largest = max(differences.values())
        terminal.print_line(
            f"onnx: {path.stat().st_size / 2**20:.1f} MiB; on {len(images)} images ONNX Runtime "
            f"differs from PyTorch by at most {largest:.1g}"
        )

    def announce(self, result: Path, run_folder: Path) -> list[str]:
        """Return a line that names the file and its outputs."""
        outputs = ", ".join(read_json(result / "onnx.json")["outputs"])
        return [f"           {run_folder / 'network.onnx'}: images -> {outputs}"]

    def _calibration_key(self, run: Run) -> Any:
        """Return the part of the key for a validation threshold; None for any other."""
        if not run.uses_validation_threshold:
            return None
        if run.chooses_own_threshold():
            return run.key("calibrate")
        return run.chosen_thresholds()["elsewhere"]

    def _validation_threshold(self, run: Run) -> float | None:
        """Return the threshold that stage calibrate chose; None where the segmenter has another."""
        if not run.uses_validation_threshold:
            return None
        return float(run.chosen_thresholds()["elsewhere"][f"{USED_IOU:g}"])

    def _describe(self, run: Run, trained: Checkpoint, options: GraphOptions) -> dict[str, str]:
        """Return what is stored in the file, as JSON by name."""
        height, width = options.size
        content: dict[str, Any] = {
            "classes": list(trained.classes),
            "input": f"images: uint8 [batch, {height}, {width}, 3], RGB, upright, 0 to 255",
            "outputs": list(options.outputs),
            "map": options.kind,
            "threshold": "size" if options.threshold is None else options.threshold,
            "box": "xyxy, half-open, from 0 to 1: times width and height of the image",
            **({"probability": EACH_CLASS} if options.is_of_each_class else {}),
            "producer": f"label2box {list_versions()['label2box']} {run.config['name']}",
            "network": checkpoint.fingerprint(run.checkpoint),
        }
        return {key: json.dumps(value, ensure_ascii=False) for key, value in content.items()}

    def _read_images(self, run: Run) -> UInt8[np.ndarray, "n H W 3"]:
        """Read some images of the run at the size of the network; noise where it has none."""
        import numpy as np

        split = run.images()
        examples = (split.read(position, run.size) for position in range(len(split)))
        images = []
        for example in examples:
            if not isinstance(example, SkippedImage):
                images.append(example.image)
            if len(images) == COMPARED_IMAGES:
                break
        if not images:
            shape = (COMPARED_IMAGES, *run.size, 3)
            return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        return np.stack(images)


def _check_differences(differences: Mapping[str, float], side: int) -> None:
    """Raise UserError where an output of the file is not that of the network.

    A value at the threshold may be on either side of it: the box may differ by a pixel, and the
    score by what that pixel counts.
    """
    allowed = {
        **dict.fromkeys(("box", "boxes"), 1 / side + MAX_DIFFERENCE),
        **dict.fromkeys(("score", "scores"), 1 / side),
    }
    wrong = {
        name: gap
        for name, gap in differences.items()
        if not gap <= allowed.get(name, MAX_DIFFERENCE)
    }
    if wrong:
        named = ", ".join(f"{name} by {gap:.2g}" for name, gap in wrong.items())
        raise UserError(
            f"onnx: the file does not compute what the network computes: it differs in {named}, "
            f"allowed is {MAX_DIFFERENCE:g}; another onnx.opset= may help"
        )
