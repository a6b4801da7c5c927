"""MNIST: handwritten digits, 28 x 28, white on black, ten classes, no boxes.

    data.root/MNIST/raw/
        train-images-idx3-ubyte    train-labels-idx1-ubyte    trained on
        t10k-images-idx3-ubyte     t10k-labels-idx1-ubyte     scored

The layout is that of torchvision.datasets.MNIST. Missing files are downloaded, once: a download
that was broken off goes on where it stopped, and the MD5 of each file is checked. A file that is
there as NAME.gz with this MD5 is unpacked. The files may hold fewer digits than the original's
60,000 and 10,000.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from filelock import FileLock

from pipeline.data.hashed_splits import hash_to_fraction
from pipeline.data.listing import check_share, parse_input_size
from pipeline.errors import UserError
from pipeline.formats.download import fetch
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Pool = Literal["train", "test"]
FOLDER = "MNIST/raw"
SERVER = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # torchvision's own
FILES = {  # with the MD5 of NAME.gz
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}


@dataclass(frozen=True)
class Mnist:
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of digits, grey as equal RGB channels.

    Args:
        root: The folder with MNIST/raw, which is downloaded where it is missing.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.

    Raises:
        UserError: An option is out of range, or, once digits are read, the files are damaged or
            cannot be downloaded.
    """

    root: str = "~/.cache/label2box"
    size: int | tuple[int, int] = 28
    held_back: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", parse_input_size(self.size))
        check_share("held_back", self.held_back)

    @property
    def classes(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")

    def ids(self, split: Split) -> Sequence[str]:
        """Return ids such as `test/00017-7.png`: the pool, the number in it and the digit."""
        return [self._id(pool, number) for pool, number in self._members[split]]

    def labels(self, split: Split) -> Int[np.ndarray, "n"]:
        """Return the class of each image, by position."""
        labels = [self._digits[pool].labels[number] for pool, number in self._members[split]]
        return np.array(labels, np.int64)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Return an image, 28 x 28 or scaled.

        Args:
            split: The split.
            position: Position of the image in it.
            at: The (height, width) to scale to; the aspect is not kept. None: not scaled.
            at_least: Without `at`: the smallest (height, width) that is needed. A smaller image
                is enlarged to it, its aspect kept.
        """
        pool, number = self._members[split][position]
        digits = self._digits[pool]
        image = digits.images[number]
        size = (image.shape[0], image.shape[1])
        if at is None and at_least is not None:
            grow = max(1.0, at_least[0] / size[0], at_least[1] / size[1])
            at = (round(size[0] * grow), round(size[1] * grow))
        if at is not None and at != size:
            shrinks = at[0] < size[0] and at[1] < size[1]
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, at[::-1], interpolation=interpolation))
        rgb = np.repeat(image[:, :, None], 3, 2)
        return Example(self._id(pool, number), rgb, int(digits.labels[number]), size)

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return no annotations."""
        return {}

    def coco_names(self, split: Split) -> CocoIds:
        """Return image and category numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    def fingerprint(self, split: Split) -> str:
        """Hash the pixels and labels of a split."""
        digest = hashlib.sha256(repr(("mnist", split)).encode())
        for pool in ("train", "test"):
            numbers = [number for name, number in self._members[split] if name == pool]
            digest.update(self._digits[pool].images[numbers].tobytes())
            digest.update(self._digits[pool].labels[numbers].tobytes())
        return digest.hexdigest()[:16]

    def truth_fingerprint(self, split: Split) -> str:
        """Return `none`, as there are no annotations."""
        return "none"

    def truth_notes(self) -> list[str]:
        """Return no notes."""
        return []

    def notes(self) -> list[str]:
        """Return no notes."""
        return []

    @cached_property
    def _members(self) -> dict[Split, list[tuple[Pool, int]]]:
        """Pool and number in it of each image of each split."""
        learn: list[tuple[Pool, int]] = []
        held: list[tuple[Pool, int]] = []
        for number in range(len(self._digits["train"].labels)):
            apart = hash_to_fraction(f"train/{number:05d}", "held_back") < self.held_back
            (held if apart else learn).append(("train", number))
        val: list[tuple[Pool, int]] = [("test", n) for n in range(len(self._digits["test"].labels))]
        return {"train": learn, "held_back": held, "calibration": [], "val": val,
                "test": [], "all": learn + held + val}  # fmt: skip

    def _id(self, pool: Pool, number: int) -> str:
        return f"{pool}/{number:05d}-{self._digits[pool].labels[number]}.png"

    @cached_property
    def _digits(self) -> dict[Pool, Digits]:
        root = Path(self.root).expanduser()
        return {"train": _read(root, True), "test": _read(root, False)}


@dataclass(frozen=True)
class Digits:
    """All images of a pool with their labels."""

    images: UInt8[np.ndarray, "n h w"]
    labels: Int[np.ndarray, "n"]


def _read(root: Path, train: bool) -> Digits:
    """Read a pool, and download both where there is none. Raise UserError where this fails."""
    from torchvision.datasets import MNIST  # here: it imports torch, slowly

    try:
        pool = MNIST(str(root), train=train)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise _describe_damage(root, error) from error
        _download(root)
        return _read(root, train)
    except (AssertionError, ValueError, TypeError, KeyError, OSError) as error:
        raise _describe_damage(root, error) from error
    images, labels = pool.data.numpy(), pool.targets.numpy().astype(np.int64)
    if len(images) != len(labels) or labels.min(initial=0) < 0 or labels.max(initial=0) > 9:
        raise _describe_damage(
            root, f"{len(images)} images, {len(labels)} labels; expected one of 0-9 each"
        )
    return Digits(images, labels)


def _download(root: Path) -> None:
    """Download and unpack those of the four files that are missing. Raise UserError if it fails."""
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):  # of several runs one downloads
            for name, md5 in FILES.items():
                if not (folder / name).is_file():
                    _get(folder / name, md5)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(
            f"data=mnist data.root={root}: no MNIST there, and it could not be downloaded "
            f"({reason}). Without a network: put {', '.join(FILES)} there, into {FOLDER}/, "
            f"unpacked or as {SERVER}NAME.gz has them, or give data.root=FOLDER with {FOLDER}/"
        ) from error


def _get(path: Path, md5: str) -> None:
    """Download a file as .gz, and give it its name once it is unpacked.

    Raises:
        OSError: It cannot be downloaded or written.
    """
    packed, unpacked = path.with_name(f"{path.name}.gz"), path.with_name(f".{path.name}.unpacked")
    was_there = packed.exists()
    fetch(f"{SERVER}{packed.name}", packed, md5)
    with gzip.open(packed) as source, unpacked.open("wb") as target:
        shutil.copyfileobj(source, target)
    os.replace(unpacked, path)
    if not was_there:
        packed.unlink()


def _describe_damage(root: Path, why: object) -> UserError:
    """Return the error for files that cannot be read."""
    reason = " ".join(str(why).split())[:200] or type(why).__name__
    return UserError(
        f"data.root={root}: the files in MNIST/raw cannot be read as MNIST's ({reason}); remove "
        "that folder, and they are downloaded again"
    )
