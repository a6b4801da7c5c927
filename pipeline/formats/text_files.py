"""Many small text files, in few calls, and without waiting for the disk at each."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.formats.files import truncate_name


class Folders:
    """Makes folders, each once."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def make(self, folder: Path | str) -> None:
        """Make a folder, and those above it, unless it was made before.

        Args:
            folder: the folder; it may be there.
        """
        if (name := str(folder)) not in self._made:
            os.makedirs(name, exist_ok=True)
            self._made.add(name)


def replace_text(path: Path | str, text: str) -> None:
    """Write a small UTF-8 text file; a file that is there is replaced as a whole.

    A new file is written in the three calls of the system that it takes: use it where a later file
    tells that all are complete. `atomic_write` also waits until the disk has the file, which takes
    longer than to write an annotation of an image. A link to a file that is there keeps its
    content.

    Args:
        path: the file. Its folder exists.
        text: what to write.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        _write_new(path, text)
    except FileExistsError:
        name = truncate_name(Path(path).name, 100)  # threads may write other files of the folder
        temporary = Path(path).with_name(f".{name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        _write_new(temporary, text)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _write_new(path: Path | str, text: str) -> None:
    """Write a file that is not there yet, or nothing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = text.encode("utf-8")
        while left:  # a write may stop early where the disk is nearly full
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
