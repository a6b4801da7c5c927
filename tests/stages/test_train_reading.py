"""Training says which files it could not read, read in part, or scaled by a range of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import intensity
from pipeline.stages.train import images
from tests.conftest import Cli

RUN = ("+experiment=cam", "data=folder", "data.root=images", "data.held_back=0.2", "data.size=32",
       "stages=[train]", "train.epochs=3", "train.batch=4")  # fmt: skip


@pytest.fixture
def odd_files(folder_of_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images of several pages, of 16 bits where no range is known, and broken ones."""
    monkeypatch.setattr(intensity, "MAX_LOOKED_AT", 0)
    blue, red = (folder_of_images / "train" / name for name in ("blue", "red"))
    pages = [Image.new("RGB", (64, 48), colour) for colour in ("blue", "white")]
    for n in range(3):
        pages[0].save(blue / f"{n}.png", save_all=True, append_images=pages[1:])
        deep = np.random.default_rng(n).integers(0, 4000, (48, 64)).astype(np.uint16)
        Image.fromarray(deep).save(red / f"{n}.png")
        (red / f"{n + 3}.png").write_bytes(b"no image")


def notes() -> dict[str, int]:
    records = json.loads(Path("outputs/latest/notes.json").read_text())
    return {record["text"]: record["count"] for record in records if record["stage"] == "train"}


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("recipe", ["kept", "decoded in each epoch", "head"])
def test_files_that_are_read_in_part_or_not_at_all_are_counted(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    options = ["model=small"]
    if recipe == "decoded in each epoch":
        monkeypatch.setattr(images, "CACHE_BYTES", 0)
    if recipe == "head":
        from torchvision.models import squeezenet1_1

        torch.save(squeezenet1_1().state_dict(), "w.pth")
        options = ["model=squeezenet1_0", "model.name=squeezenet1_1", "model.weights=w.pth"]
    for _ in range(2):  # the second time from the result that is kept
        assert cli(*RUN, *options) == 0
        found = notes()
        for words in ("of 24 with several pages or frames: only the first is used",
                      "of 24 with more than 8 bits scaled by a range of their own",
                      "could not be read"):  # fmt: skip
            assert sum(count for text, count in found.items() if words in text) == 3
        is_grey = any("learned from a grey image for each" in text for text in found)
        assert is_grey == (recipe == "decoded in each epoch")
