"""Backends that run a network without gradients: ONNX Runtime and OpenVINO, each an extra.

Both read the same ONNX file. A session belongs to no thread: each thread that calls it computes its
own batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

Backend = Literal["torch", "onnxruntime", "openvino"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
INPUT_NAME = "images"
Session = Callable[["Float32[np.ndarray, 'b c H W']"], "Sequence[np.ndarray]"]
"""From a batch to the outputs of the file, in its order."""
SUPPORTED = "float32 on a CPU"  # what the backends compute; torch computes everything else


def is_installed(backend: Backend) -> bool:
    """Return whether a backend is installed, with what writes the files that it reads.

    Args:
        backend: its name.
    """
    packages = ("torch",) if backend == "torch" else (backend, "onnx")
    return all(find_spec(package) is not None for package in packages)


def installed_version(backend: Backend) -> str:
    """Return the version of the package of a backend; empty where it is not installed.

    Args:
        backend: its name.
    """
    try:
        return version(backend)
    except PackageNotFoundError:
        return ""


def open_session(backend: Backend, content: bytes, threads: int, callers: int) -> Session:
    """Load a network into a backend.

    Args:
        backend: onnxruntime or openvino.
        content: of an ONNX file whose input is INPUT_NAME.
        threads: that a batch is computed with.
        callers: threads that call the session at the same time.
    """
    openers = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
    return openers[backend](content, threads, callers)


def _open_onnxruntime(content: bytes, threads: int, callers: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # of a single thread it is the caller's
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: warnings are about the file that we made
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Float32[np.ndarray, "b c H W"]) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = session.run(None, {INPUT_NAME: images})
        return outputs

    return run


def _open_openvino(content: bytes, threads: int, callers: int) -> Session:
    import threading

    import numpy as np
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU multiplies it
        "INFERENCE_NUM_THREADS": threads * callers,
        "NUM_STREAMS": callers,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(content, b""), "CPU", options)
    local = threading.local()

    def run(images: Float32[np.ndarray, "b c H W"]) -> Sequence[np.ndarray]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        # Its outputs are buffers that the next batch overwrites.
        results = local.request.infer({INPUT_NAME: images}, share_inputs=True)
        return [np.array(results[port]) for port in compiled.outputs]

    return run
