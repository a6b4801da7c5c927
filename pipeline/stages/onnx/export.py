"""Write a network as an ONNX file, and compare the file with the network under ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write
from pipeline.stages.onnx.graph import ExportedNetwork

if TYPE_CHECKING:
    from jaxtyping import UInt8

INPUT = "images"
MODULES = ("onnx", "onnxruntime", "onnxscript")


def check_installed() -> None:
    """Raise UserError where a package of the extra `onnx` is not installed."""
    from importlib.util import find_spec

    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"stage onnx needs {', '.join(MODULES)}; not installed: {', '.join(missing)}; "
            "pip install 'label2box[onnx]' installs them"
        )


def write_onnx(
    path: Path, network: ExportedNetwork, opset: int, metadata: Mapping[str, str]
) -> None:
    """Write a network as one ONNX file whose first axis, the batch, is free.

    Args:
        path: the file.
        network: on the CPU, in eval mode.
        opset: version of ONNX's operators.
        metadata: texts that are stored in the file.

    Raises:
        UserError: the network cannot be expressed in ONNX.
    """
    height, width = network.options.size
    # Two images: of a batch of one, the exporter would take the 1 for a constant.
    images = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(network.options.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise UserError(
            f"onnx: torch.onnx.export cannot express this network ({type(cause).__name__}: "
            f"{str(cause).splitlines()[0][:120]}); networks without control flow that depends on "
            "the image, as model=mobilenet_v2 or resnet50, can be exported"
        ) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    with atomic_write(path) as temporary:
        program.save(temporary, external_data=False)


def compare_with_file(
    path: Path, network: ExportedNetwork, images: UInt8[np.ndarray, "n H W 3"]
) -> dict[str, float]:
    """Return the largest difference of each output of the file to that of the network.

    It is relative to the output's largest magnitude where that is above 1, else absolute.

    Args:
        path: the ONNX file.
        network: from which it was written.
        images: what both compute on.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {INPUT: images})
    with torch.no_grad():
        expected: tuple[Any, ...] = network(torch.from_numpy(images))
    differences = {}
    for name, ours, theirs in zip(network.options.outputs, expected, found, strict=True):
        values = ours.numpy()
        differences[name] = float(np.abs(theirs - values).max() / max(1, np.abs(values).max()))
    return differences
