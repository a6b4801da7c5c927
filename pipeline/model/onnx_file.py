"""A part of a network as an ONNX file in memory, whose first axis, the batch, is free."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.model.backends import INPUT_NAME

if TYPE_CHECKING:
    from jaxtyping import Float

OPSET = 17  # of ONNX: layer norm is one operator; all supported backends read it


def export_onnx(part: nn.Module, images: Float[Tensor, "b c H W"], names: Sequence[str]) -> bytes:
    """Write a module as an ONNX file.

    It is traced: the exporter that torch recommends takes nine times as long for a MobileNetV2,
    more than a small run gains.

    Args:
        part: in eval mode, from images to a tuple of tensors.
        images: that it is traced with; their height and width are those of the file.
        names: of its outputs.

    Returns:
        The content of the file.

    Raises:
        Exception: whatever torch raises for what it cannot export.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.no_grad(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _without_graphs(),
    ):
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            part,
            (images.contiguous(),),
            file,
            dynamo=False,
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_axes={name: {0: "batch"} for name in (INPUT_NAME, *names)},
            opset_version=OPSET,
        )
        return file.read_bytes()


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """Let torch not print the graph, a thousand lines, where an operator cannot be exported.

    Its exporter turns its log on for each export (torch 2.14), so that turning it off is no help.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
