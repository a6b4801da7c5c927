"""Files of weights: tensors by name and the names of classes, read without running their code.

Training scripts wrap the tensors: Lightning and timm's under `state_dict`, torchvision's under
`model`, with the arguments of the script in an argparse.Namespace beside them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.formats.signature import HEAD_BYTES, identify_bytes
from pipeline.ops.text import list_some

# The averaged weights come first: they are what timm and torchvision evaluate where there are any.
WRAPPINGS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict",
             "model", "network", "net", "weights", "params", "module")  # fmt: skip
SETTINGS = ("hyper_parameters", "args", "opt", "config", "cfg", "meta", "dataset_meta", "hparams")
CLASS_KEYS = ("classes", "class_names", "CLASSES", "class_to_idx", "idx_to_class", "id2label",
              "label2id", "label_names", "labels", "categories", "names")  # fmt: skip
# Plain values that training scripts put beside the weights. Building one runs no code of the file.
_DTYPES = tuple(type(np.dtype(code)) for code in "?bhilqBHILQefdUS")
_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.zeros(0).__reduce__()[0]
_PLAIN: list[Any] = [
    argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.dtype, *_DTYPES,
    np.ndarray,
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
    (_ARRAY, "numpy.core.multiarray._reconstruct"), (_ARRAY, "numpy._core.multiarray._reconstruct"),
]  # fmt: skip
_MODULES = ("torch.nn.", "torchvision.models.", "timm.models.", "torch.fx.", "torch.jit")
SAVE_TENSORS = "torch.save(model.state_dict(), FILE)"
UNSAFE = "not a file of weights that loads safely"
_DOWNLOAD = "download the file of weights itself again"
_FROM_PYTORCH = f"only weights of PyTorch are read: {SAVE_TENSORS} writes them"
# What helps where a file of some type (see signature.py) is given for weights.
REMEDIES = {
    "Git LFS pointer": "run git lfs pull in its repository, which downloads the weights",
    "git-annex pointer": "run git annex get, which downloads the weights",
    "HTML page": f"{_DOWNLOAD}; sites answer with a page where a login or a consent is needed",
    "XML file": f"{_DOWNLOAD}; storage services answer so where access is denied",
    "file of zero bytes only": _DOWNLOAD,
    "text file": _DOWNLOAD,
}
# Files of weights of other tools: the place and the value of their first bytes, and their name.
_OTHER_TOOLS = (
    (0, b"\x89HDF", "HDF5 file, as Keras writes it"),
    (4, b"TFL3", "TensorFlow Lite model"),
    (0, b"GGUF", "GGUF file"),
    (0, b"\x93NUMPY", "NumPy array"),
)


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights.

    Attributes:
        tensors: by name, on the CPU; those of floats in float32.
        wrapping: the keys that the tensors lay under, as `state_dict`; empty: under none.
        classes: the names of the classes that the file has, in the order of its head; or none.
    """

    tensors: dict[str, Tensor]
    wrapping: str
    classes: tuple[str, ...]


def read_weights(path: str | Path) -> WeightFile:
    """Read a .safetensors file, or a torch.save file without running its code.

    Args:
        path: the file. The state dict may lie under one of WRAPPINGS, or under the only key that
            has tensors.

    Raises:
        UserError: The file is not there, cannot be loaded safely, or holds anything but tensors by
            name.
    """
    path = Path(path)
    content, classes = _read_content(path)
    state, wrapping = _unwrap(path, content)
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: expected tensors by name (a state_dict), got {_kind(state)}")
    state = {name: _convert_array(value) for name, value in state.items()}
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            raise UserError(
                f"{path}: expected tensors by name (a state_dict), got {_kind(tensor)} at {name!r}"
            )
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    check_finite(tensors, str(path))
    return WeightFile(tensors, wrapping, classes or _find_classes(content))


def _read_content(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return what is in a file, and the classes that the head of a .safetensors file names."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import load

            content = load(path.read_bytes())
            with safe_open(path, framework="pt") as opened:
                return content, _find_classes(_parse_values(opened.metadata() or {}))
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on TorchScript, which is refused
            return torch.load(path, map_location="cpu", weights_only=True), ()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # of pickle, zip or torch
        raise _refusal(path, error) from error


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that hold NaN or infinity; masks of attention hold -infinity rightly.

    Args:
        tensors: by name.
        where: the file, for the error.

    Raises:
        UserError: Some tensors hold NaN or infinity.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
        and not (name.endswith("mask") and not torch.isnan(tensor).any())
    ]  # fmt: skip
    if bad:
        hold = "holds" if len(bad) == 1 else "hold"
        raise UserError(
            f"{where}: {list_some(bad, 'tensor')} of {len(tensors)} {hold} NaN or infinity: the "
            "training that wrote the file diverged; give an earlier checkpoint"
        )


def _convert_array(value: Any) -> Any:
    """Return a NumPy array of numbers as a tensor, and any other value as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and (
        value.dtype.kind in "fiub" and value.dtype.isnative) else value  # fmt: skip


def _refusal(path: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be loaded, with the remedy."""
    if what := _describe_other_type(path):
        return UserError(f"{path}: {UNSAFE}: it is {what}")
    wanted = _list_globals(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
    if "TorchScript" in str(error) or any(name.startswith(_MODULES) for name in wanted):
        return UserError(
            f"{path}: holds a whole pickled network and not its weights, and opening it would run "
            f"code of the file; where it was made, write the weights alone: {SAVE_TENSORS}"
        )
    if wanted:
        return UserError(
            f"{path}: {UNSAFE}: it holds other objects ({', '.join(wanted[:3])}), and opening "
            "them would run code of the file; where it was made, write the weights "
            f"alone: {SAVE_TENSORS}"
        )
    if isinstance(error, PermissionError):
        return UserError(f"{path}: cannot be read ({error.strerror})")
    return UserError(
        f"{path}: {UNSAFE}: it is cut short, damaged or of another "
        f"kind; copy or download it again. Expected tensors by name, as {SAVE_TENSORS} or "
        "safetensors write them"
    )


def _describe_other_type(path: Path) -> str:
    """Say what a file is by its first bytes where that is known and no file of weights."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""
    if not head:
        return f"cut short, as the file is empty; {_DOWNLOAD}"
    for start, magic, name in _OTHER_TOOLS:
        if head.startswith(magic, start):
            return f"a {name}; {_FROM_PYTORCH}"
    # The first field of ONNX, ir_version, and the second, the name of what wrote it.
    if path.suffix.casefold() == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return f"an ONNX or TensorFlow model; {_FROM_PYTORCH}"
    kind = identify_bytes(head)
    if kind is None or kind.name == "zip archive":  # torch.save writes zip archives
        return ""
    if kind.name in REMEDIES:
        return f"a file of another kind ({kind.name}), not weights; {REMEDIES[kind.name]}"
    unpack = "unpack it, and give the file within" if "archive" in kind.name else _FROM_PYTORCH
    return f"a file of another kind ({kind.name}), not weights; {unpack}"


def _list_globals(path: Path) -> list[str]:
    """List the classes and functions that a torch.save file needs, which are not allowed."""
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # no zip file of torch, or a broken one
        return []


def _unwrap(path: Path, content: Any) -> tuple[Any, str]:
    """Return the state dict within a file's content, and the keys that it lies under."""
    keys: list[str] = []
    while isinstance(content, Mapping) and not any(isinstance(v, Tensor) for v in content.values()):
        holding = [key for key, value in content.items() if _has_tensors(value)]
        chosen = [key for key in WRAPPINGS if key in holding] or holding[:2]
        if not chosen:
            break
        if chosen[0] not in WRAPPINGS and len(chosen) > 1:
            raise UserError(
                f"{path}: holds several networks, {', '.join(map(repr, holding))}; save the one "
                f"that is meant: torch.save(torch.load(FILE)[{holding[0]!r}], OTHER)"
            )
        keys.append(str(chosen[0]))
        content = content[chosen[0]]
    return content, ".".join(keys)


def _has_tensors(value: Any) -> bool:
    """Return whether a value is a state dict, or wraps one under one of WRAPPINGS."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(item, Tensor) for item in value.values()):
        return all(isinstance(key, str) for key in value)
    return any(_has_tensors(value[key]) for key in WRAPPINGS if key in value)


def _find_classes(content: Any) -> tuple[str, ...]:
    """Return the names of classes in a file's content or in the settings that it holds."""
    for place in _list_places(content):
        for key in CLASS_KEYS:
            if names := parse_class_names(place.get(key)):
                return names
    return ()


def _list_places(content: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the dictionaries of a file in which names of classes may stand."""
    if not isinstance(content, Mapping):
        return
    yield content
    for key in SETTINGS:
        value = content.get(key)
        settings = vars(value) if isinstance(value, argparse.Namespace) else value
        yield from _list_places(settings)


def _parse_values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Parse the values of a .safetensors file's metadata, which are text, as JSON."""
    values: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text.split(",") if key in CLASS_KEYS else text
    return values


def parse_class_names(value: Any) -> tuple[str, ...]:
    """Return the names of classes by index; none where a value is not that.

    Args:
        value: a list of names, or a dictionary from names to indices or from indices to names.

    Examples:
        >>> parse_class_names({"dog": 1, "cat": 0})
        ('cat', 'dog')
        >>> parse_class_names({"0": "cat", "1": "dog"})
        ('cat', 'dog')
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        named = all(isinstance(name, str) for name in value)
        return tuple(map(str, value)) if named else ()
    if not isinstance(value, Mapping):
        return ()
    pairs = [(str(k), v) if _is_index(v) else (str(v), k) for k, v in value.items()]
    if not all(_is_index(index) for _, index in pairs):
        return ()
    ordered = sorted((int(index), name) for name, index in pairs)
    complete = [index for index, _ in ordered] == list(range(len(ordered)))
    return tuple(name for _, name in ordered) if complete else ()


def _is_index(value: Any) -> bool:
    is_text = isinstance(value, str) and value.isdecimal()
    return is_text or (isinstance(value, int) and not isinstance(value, bool))


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"
