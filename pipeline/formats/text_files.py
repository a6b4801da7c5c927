"""Many small text files, each whole or not at all, without waiting for the disk at each."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a small UTF-8 text file under a temporary name and rename it.

    `atomic_write` also waits until the disk has the file, which takes longer than to write an
    annotation of an image. Here a power cut can lose it: use it where a later file tells that all
    are complete.

    Args:
        path: the file; it is replaced as a whole. Its folder exists.
        text: what to write.

    Raises:
        OSError: the disk is full or fails.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
