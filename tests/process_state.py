"""The state of a process that its tests share: settings that change numbers, functions, signals.

Tests of one process run one after another. What one of them leaves behind (threads, flags of
numerical libraries, the environment, a replaced function) changes the results of those after it,
and which those are differs from run to run, as files of tests are spread over processes.
"""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import signal
import sys
import tempfile
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile

from pipeline.formats import photo  # noqa: F401  (sets Pillow's limit of pixels)

State = dict[str, Any]

# Modules whose functions and classes a test could replace.
WATCHED = ("builtins", "cv2", "numpy", "os", "os.path", "random", "shutil", "socket", "subprocess",
           "time")  # fmt: skip

CACHED = type(cache(lambda: None))
CODE = (type, types.FunctionType, types.BuiltinFunctionType, CACHED)

TINY = np.float32(1e-40)  # a denormal, which some libraries let the processor round to zero


def read_state() -> State:
    """Return all settings by name; two states differ in what was changed in between."""
    return {
        **_read_torch(),
        **_read_other_libraries(),
        **_read_interpreter(),
    }


def describe_changes(before: State, after: State) -> list[str]:
    """Return a line for each setting that is not as it was, of libraries that both states know."""
    return [
        f"{name}: {before[name]!r} before, {after[name]!r} after"
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]


def _read_torch() -> State:
    backends: Any = torch.backends
    return {
        "torch.get_num_threads": torch.get_num_threads(),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.get_default_device": torch.get_default_device(),
        "torch.get_deterministic_debug_mode": torch.get_deterministic_debug_mode(),
        "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled": torch.is_inference_mode_enabled(),
        "torch.is_anomaly_enabled": torch.is_anomaly_enabled(),
        "torch.is_autocast_enabled(cpu)": torch.is_autocast_enabled("cpu"),
        "torch.get_autocast_dtype(cpu)": torch.get_autocast_dtype("cpu"),
        "torch.is_autocast_cache_enabled": torch.is_autocast_cache_enabled(),
        "torch.backends.mkldnn.enabled": backends.mkldnn.enabled,
        "torch.backends.mkldnn.deterministic": backends.mkldnn.deterministic,
        "torch.backends.mkldnn.allow_tf32": backends.mkldnn.allow_tf32,
        "torch.backends.cudnn.enabled": backends.cudnn.enabled,
        "torch.backends.cudnn.benchmark": backends.cudnn.benchmark,
        "torch.backends.cudnn.deterministic": backends.cudnn.deterministic,
        "torch.backends.cudnn.allow_tf32": backends.cudnn.allow_tf32,
        "torch.backends.cuda.matmul.allow_tf32": backends.cuda.matmul.allow_tf32,
        "torch.hub.get_dir": torch.hub.get_dir(),
        "denormals of torch": bool(torch.full((64,), float(TINY)).mul(1.0).any()),
    }


def _read_other_libraries() -> State:
    state: State = {
        "cv2.getNumThreads": cv2.getNumThreads(),
        "cv2.useOptimized": cv2.useOptimized(),
        "numpy.geterr": np.geterr(),
        "numpy.get_printoptions": repr(np.get_printoptions()),
        "denormals of numpy": bool((np.full(64, TINY) * np.float32(1)).any()),
        "PIL.Image.MAX_IMAGE_PIXELS": Image.MAX_IMAGE_PIXELS,
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": ImageFile.LOAD_TRUNCATED_IMAGES,
    }
    # Not numba.get_num_threads: it starts numba's threads, and OpenMP has other settings after it.
    if (numba := sys.modules.get("numba")) is not None:
        state["numba.config.DISABLE_JIT"] = numba.config.DISABLE_JIT
    if (hydra := sys.modules.get("hydra.core.global_hydra")) is not None:
        state["hydra is initialized"] = hydra.GlobalHydra.instance().is_initialized()
    return state


def _read_interpreter() -> State:
    return {
        "os.getcwd": _read_working_folder(),
        "os.umask": _read_umask(),
        "cores of this process": sorted(os.sched_getaffinity(0)),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal context": (decimal.getcontext().prec, decimal.getcontext().rounding),
        "gc.isenabled": gc.isenabled(),
        "sys.getrecursionlimit": sys.getrecursionlimit(),
        "sys.getswitchinterval": sys.getswitchinterval(),
        "signal handlers": {
            each.name: signal.getsignal(each)
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
        },
        "logging.disable": logging.root.manager.disable,
        "tempfile.tempdir": tempfile.tempdir,
    }


def _read_working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "deleted"


def _read_umask() -> int:
    umask = os.umask(0o022)  # there is no other way to read it
    os.umask(umask)
    return umask


class WatchedNames:
    """Functions, classes and methods of modules, as they were when a module was seen first."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, object]] = {}

    def list_replaced(self) -> list[str]:
        """Return the names that stand for something else than at first."""
        replaced = []
        for module, names in self._read_modules():
            first = self._seen.setdefault(module, names)
            replaced += [
                f"{module}.{name}: {first[name]!r} before, {names[name]!r} after"
                for name in first.keys() & names.keys()
                if first[name] is not names[name]
            ]
        return sorted(replaced)

    def accept(self) -> None:
        """Take what stands there now for what was there at first."""
        self._seen = dict(self._read_modules())

    @staticmethod
    def _read_modules() -> Iterator[tuple[str, dict[str, object]]]:
        for name, module in [*sys.modules.items()]:
            is_ours = name.partition(".")[0] == "pipeline"
            if is_ours or name in WATCHED:
                yield name, _read_names(module, with_methods=is_ours)


def _read_names(module: types.ModuleType, with_methods: bool) -> dict[str, object]:
    names: dict[str, object] = {}
    for name, value in vars(module).items():
        if isinstance(value, CODE):
            names[name] = value
        if with_methods and isinstance(value, type) and value.__module__ == module.__name__:
            for key, method in vars(value).items():
                if isinstance(method, types.FunctionType):
                    names[f"{name}.{key}"] = method
    return names
