"""NumPy arrays with JSON notes in safetensors files: written atomically, read in part or mapped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, Any], **notes: Any) -> None:
    """Write arrays and notes into one safetensors file, atomically.

    Args:
        path: The file.
        arrays: NumPy arrays, or what `np.asarray` takes, by name.
        notes: Values that JSON can express, by name.
    """
    from safetensors.numpy import save_file

    with atomic_write(path) as temporary:
        save_file(_in_order(arrays), str(temporary), _dump_notes(notes))


def pack_arrays(arrays: Mapping[str, Any], **notes: Any) -> bytes:
    """Return the bytes that `write_arrays` writes.

    Args:
        arrays: NumPy arrays, or what `np.asarray` takes, by name.
        notes: Values that JSON can express, by name.
    """
    from safetensors.numpy import save

    return bytes(save(_in_order(arrays), _dump_notes(notes)))


def unpack_arrays(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the notes, each by name, that `pack_arrays` has packed.

    Args:
        content: What it returned.
    """
    from safetensors.numpy import load

    size = int.from_bytes(content[:8], "little")
    notes = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return dict(load(content)), {name: json.loads(note) for name, note in notes.items()}


def _in_order(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays in C order.

    safetensors writes the memory of an array without looking at its strides: an array that is not
    in C order would be read with its elements permuted.
    """
    import numpy as np

    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def _dump_notes(notes: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(note) for name, note in notes.items()}


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the arrays and the notes that `write_arrays` wrote.

    Args:
        path: What `write_arrays` wrote.

    Returns:
        The arrays and the notes, each by name.

    Raises:
        UserError: The file is damaged or truncated.
    """
    with _open(path) as file:
        notes = {name: json.loads(note) for name, note in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def read_rows(path: Path, names: Iterable[str], rows: slice = slice(None)) -> dict[str, Any]:
    """Read some rows of the named arrays, and nothing else of the file.

    Args:
        path: What `write_arrays` wrote.
        names: Names of arrays; those that the file lacks are skipped.
        rows: Which rows along the first axis.

    Raises:
        UserError: The file is damaged or truncated.
    """
    with _open(path) as file:
        present = set(file.keys())
        wanted = [name for name in names if name in present]
        # safetensors refuses a slice of an array without rows.
        if rows == slice(None):
            return {name: file.get_tensor(name) for name in wanted}
        return {
            name: file.get_slice(name)[rows]
            if file.get_slice(name).get_shape()[0]
            else file.get_tensor(name)
            for name in wanted
        }


def read_notes(path: Path) -> dict[str, Any]:
    """Read the notes that `write_arrays` wrote, without the arrays.

    Args:
        path: What `write_arrays` wrote.

    Raises:
        UserError: The file is damaged or truncated.
    """
    with _open(path) as file:
        return {name: json.loads(note) for name, note in (file.metadata() or {}).items()}


def map_arrays(path: Path) -> dict[str, Any]:
    """Map the arrays that `write_arrays` wrote into memory, read-only.

    Parts of the file that are never accessed are never read from the disk.

    Args:
        path: What `write_arrays` wrote.

    Raises:
        UserError: The file is damaged or truncated.
    """
    import numpy as np

    with _open(path) as file:
        names = list(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    if not names:
        return {}
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    dtypes = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64,
              "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip
    arrays = {}
    for name in names:
        first, last = header[name]["data_offsets"]
        dtype = dtypes[header[name]["dtype"]]
        arrays[name] = content[start + first : start + last].view(dtype).reshape(shapes[name])
    return arrays


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Yield the open safetensors file. Raise UserError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path}: not as it was written ({error}); delete the folder {path.parent}, and the "
            "same command makes it again"
        ) from error
