"""The state of a training, in the folder of its unfinished result: a killed run resumes from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write

SAVE_SECONDS = 5.0  # between saved states; a killed training loses no more than that, or
SAVE_SHARE = 0.05  # the share of the time that goes into saving, where saving takes long


class SavedState:
    """A file with a state, which is written from time to time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._save_at = time.monotonic() + SAVE_SECONDS

    @property
    def exists(self) -> bool:
        """Whether there is a state to resume from."""
        return self.path.is_file()

    @property
    def is_due(self) -> bool:
        """Whether the state is to be saved, as the last one is some seconds old."""
        return time.monotonic() > self._save_at

    def load(self) -> dict[str, Any]:
        """Load the state.

        Raises:
            UserError: the file cannot be loaded safely.
        """
        import torch

        try:
            return dict(torch.load(self.path, map_location="cpu", weights_only=True))
        except Exception as error:  # of pickle, zipfile and torch
            raise UserError(
                f"{self.path}: not a training state that loads safely ({type(error).__name__}); "
                "delete it, and training begins anew"
            ) from None

    def save(self, state: Mapping[str, Any], is_writer: bool = True) -> None:
        """Write a state by an atomic write, and set the time at which the next is due.

        Args:
            state: tensors, numbers, text, and lists and dicts of these.
            is_writer: whether this process writes it; of several ranks one does.
        """
        import torch

        began = time.monotonic()
        if is_writer:
            with atomic_write(self.path) as temporary:
                torch.save(dict(state), temporary)
        now = time.monotonic()
        self._save_at = now + max(SAVE_SECONDS, (now - began) / SAVE_SHARE)

    def remove(self) -> None:
        """Delete the file, once the training is finished."""
        self.path.unlink(missing_ok=True)
