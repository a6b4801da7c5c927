"""MNIST: handwritten digits, 28 x 28, white on black, ten classes, no boxes.

    data.root/MNIST/raw/
        train-images-idx3-ubyte    train-labels-idx1-ubyte    learned from
        t10k-images-idx3-ubyte     t10k-labels-idx1-ubyte     scored

As torchvision.datasets.MNIST lays them out. What is not there is downloaded, once. The files may
hold fewer digits than the original's 60,000 and 10,000.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.data.listing import check_share, fraction_of, input_size
from pipeline.errors import UserError
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Pool = Literal["train", "test"]
EXPECTED = "MNIST/raw/train-images-idx3-ubyte and the three files beside it"


@dataclass(frozen=True)
class Mnist:
    """A data set (`pipeline.protocols.DataSet`) of digits, grey in all three colours."""

    root: str = "~/.cache/label2box"  # the folder with MNIST/raw; where they are not, they go there
    size: int | tuple[int, int] = 28  # what images are scaled to: one side, or height and width
    held_back: float = 0.1  # share of train that selects the best epoch

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", input_size(self.size))
        check_share("held_back", self.held_back)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def ids(self, split: Split) -> Sequence[str]:
        """Names such as `test/00017-7.png`: the pool, the number in it and the digit."""
        return [self._id(pool, number) for pool, number in self._members[split]]

    def labels(self, split: Split) -> Int[np.ndarray, "n"]:
        found = [self._digits[pool].labels[number] for pool, number in self._members[split]]
        return np.array(found, np.int64)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """A digit as it is or scaled to `at`; `at_least`, which only ever enlarges, is kept to."""
        pool, number = self._members[split][position]
        digits = self._digits[pool]
        image = digits.images[number]
        size = (image.shape[0], image.shape[1])
        if at is None and at_least is not None:
            grow = max(1.0, at_least[0] / size[0], at_least[1] / size[1])
            at = (round(size[0] * grow), round(size[1] * grow))
        if at is not None and at != size:
            shrinks = at[0] < size[0] and at[1] < size[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, at[::-1], interpolation=how))
        rgb = np.repeat(image[:, :, None], 3, 2)
        return Example(self._id(pool, number), rgb, int(digits.labels[number]), size)

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        return {}

    def coco_names(self, split: Split) -> CocoIds:
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    def fingerprint(self, split: Split) -> str:
        """Of the pixels and labels themselves."""
        digest = hashlib.sha256(repr(("mnist", split)).encode())
        for pool in ("train", "test"):
            numbers = [number for own, number in self._members[split] if own == pool]
            digest.update(self._digits[pool].images[numbers].tobytes())
            digest.update(self._digits[pool].labels[numbers].tobytes())
        return digest.hexdigest()[:16]

    def truth_fingerprint(self, split: Split) -> str:
        return "none"

    def truth_notes(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return []

    @cached_property
    def _members(self) -> dict[Split, list[tuple[Pool, int]]]:
        learn: list[tuple[Pool, int]] = []
        held: list[tuple[Pool, int]] = []
        for number in range(len(self._digits["train"].labels)):
            apart = fraction_of(f"train/{number:05d}", "held_back") < self.held_back
            (held if apart else learn).append(("train", number))
        val: list[tuple[Pool, int]] = [("test", n) for n in range(len(self._digits["test"].labels))]
        return {"train": learn, "held_back": held, "calibration": [], "val": val,
                "all": learn + held + val}  # fmt: skip

    def _id(self, pool: Pool, number: int) -> str:
        return f"{pool}/{number:05d}-{self._digits[pool].labels[number]}.png"

    @cached_property
    def _digits(self) -> dict[Pool, Digits]:
        root = Path(self.root).expanduser()
        return {"train": _read(root, True), "test": _read(root, False)}


@dataclass(frozen=True)
class Digits:
    images: UInt8[np.ndarray, "n h w"]
    labels: Int[np.ndarray, "n"]


def _read(root: Path, train: bool) -> Digits:
    """One of both pools, downloaded where there is none. Raises UserError where it cannot be
    had."""
    from torchvision.datasets import MNIST  # here: it imports torch, slowly

    try:
        found = MNIST(str(root), train=train)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise _broken(root, error) from error
        _download(MNIST, root)
        return _read(root, train)
    except (AssertionError, ValueError, TypeError, KeyError, OSError) as error:
        raise _broken(root, error) from error
    images, labels = found.data.numpy(), found.targets.numpy().astype(np.int64)
    if len(images) != len(labels) or labels.min(initial=0) < 0 or labels.max(initial=0) > 9:
        raise _broken(root, f"{len(images)} images, {len(labels)} labels; expected one of 0-9 each")
    return Digits(images, labels)


def _download(mnist: Any, root: Path) -> None:
    """Fetch all four files; each appears below `root` whole."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".mnist-") as beside:
            mnist(beside, download=True)
            (root / "MNIST/raw").mkdir(parents=True, exist_ok=True)
            for file in (Path(beside) / "MNIST/raw").glob("*-ubyte"):
                os.replace(file, root / "MNIST/raw" / file.name)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.root={root}: no MNIST there (expected {EXPECTED}), and it could not be "
            f"downloaded ({reason}). Without a network: put the four files there, as "
            "torchvision.datasets.MNIST(FOLDER, download=True) does elsewhere, and give "
            "data.root=FOLDER"
        ) from error


def _broken(root: Path, why: object) -> UserError:
    reason = " ".join(str(why).split())[:200] or type(why).__name__
    return UserError(
        f"data.root={root}: the files in MNIST/raw cannot be read as MNIST's ({reason}); remove "
        "that folder, and they are downloaded again"
    )
