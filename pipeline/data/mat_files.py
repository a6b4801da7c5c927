"""MATLAB's .mat files, in which some data sets have their lists; SciPy reads them, an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError


def read_mat(path: Path, name: str, option: str) -> Sequence[Any]:
    """Read a variable of a .mat file.

    Args:
        path: The file, of MATLAB's versions 4 to 7.2.
        name: The variable.
        option: What needs the file, for messages: `data=cars`.

    Returns:
        Its values in one dimension; of a struct array, rows with the fields by name.

    Raises:
        UserError: SciPy is not installed, or the file is missing, damaged, or lacks the variable.
    """
    try:
        from scipy.io import loadmat  # here: an extra, and slow to import
    except ImportError:
        raise UserError(
            f"{option}: {path.name} is a MATLAB file, which SciPy reads; pip install "
            "'label2box[mat]'"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: no such file; {option} needs it: unpack the set again")
    try:
        content = loadmat(str(path), squeeze_me=True, variable_names=[name])
    except Exception as error:  # SciPy raises anything where a file is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as a MATLAB file ({reason}); unpack the set again"
        ) from None
    if name not in content:
        raise UserError(f"{path}: holds no variable {name!r}; unpack the set again")
    return list(np.atleast_1d(content[name]))
