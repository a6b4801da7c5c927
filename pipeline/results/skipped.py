"""The list of training images that could not be used."""

from __future__ import annotations

SKIPPED_FILE = "set_aside.json"  # the reasons why training images could not be used
