"""NumPy arrays with JSON-like notes in safetensors files: written whole, read in part or mapped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, Any], **notes: Any) -> None:
    """NumPy arrays and JSON-like notes in one safetensors file, whole or not at all."""
    import numpy as np
    from safetensors.numpy import save_file

    # safetensors writes memory as it lies: an array in another order would come back scrambled.
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with atomic_write(path) as temporary:
        save_file(in_order, str(temporary), {name: json.dumps(n) for name, n in notes.items()})


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What write_arrays wrote: the arrays, and the notes. Raises UserError where it is not
    whole."""
    with _open(path) as file:
        notes = {name: json.loads(note) for name, note in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def read_rows(path: Path, names: Iterable[str], rows: slice = slice(None)) -> dict[str, Any]:
    """Some rows of those of the named arrays that are there: nothing else of the file is read."""
    with _open(path) as file:
        there = set(file.keys())
        return {name: file.get_slice(name)[rows] for name in names if name in there}


def read_notes(path: Path) -> dict[str, Any]:
    """The notes alone."""
    with _open(path) as file:
        return {name: json.loads(note) for name, note in (file.metadata() or {}).items()}


def map_arrays(path: Path) -> dict[str, Any]:
    """The arrays that write_arrays wrote, read-only through the memory map: what is never looked
    at is never read. Raises UserError where the file is not whole."""
    import numpy as np

    with _open(path) as file:
        names = list(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    if not names:
        return {}
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64,
             "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip
    found = {}
    for name in names:
        first, last = header[name]["data_offsets"]
        kind = kinds[header[name]["dtype"]]
        found[name] = content[start + first : start + last].view(kind).reshape(shapes[name])
    return found


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path}: not as it was written ({error}); delete the folder {path.parent}, and the "
            "same command makes it again"
        ) from error
