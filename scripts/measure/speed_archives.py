"""Images read from tar and zip archives beside the same images as loose files, and indexes of tars.

Drawn are JPEGs of 375 x 500 pixels, as photographs in data sets are on the average, and a tar of
WebDataset with files of a few kilobytes. Loose files, tar and zip are read in turns, so that what
else runs slows all alike; processor time counts, and the median over the turns is given.

    loose     ms an image of photo.read at 224 x 224 from a loose file, beside Pillow's Image.open
    tar       ms from its place in a tar, beside the loose file
    zip       ms from its place in a zip, beside the loose file
    index     s of the index of a tar with its labels; peer: the tarfile of Python, without labels
    again     s of the index as it is kept
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.data.archive_files import list_stored
from pipeline.data.shard_samples import SampleOptions, read_shard
from pipeline.formats import photo
from scripts.measure.records import Record

SIZE, NETWORK_SIZE = (375, 500), (224, 224)
TURNS = 7
SAMPLE_BYTES = 3000


def run(images: str = "100", members: str = "100000") -> list[Record]:
    """Return times of reading and of indexes.

    Args:
        images: How many images are read in a turn.
        members: How many files the tar has whose index is measured.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            return [
                *_measure_reading(Path(folder), int(images)),
                *_measure_index(Path(folder), int(members)),
            ]
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if cache is not None:
                os.environ["XDG_CACHE_HOME"] = cache


def _measure_reading(folder: Path, count: int) -> list[Record]:
    paths = _draw(folder, count)
    places = {
        "loose": paths,
        "tar": [file.path for file in list_stored(str(folder / "a.tar")).files],
        "zip": [file.path for file in list_stored(str(folder / "a.zip")).files],
    }
    readers: dict[str, Callable[[], object]] = {
        "pillow": lambda: [_read_by_pillow(path) for path in paths],
        **{name: _reader(locations) for name, locations in places.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(TURNS + 1):
        for name, read in readers.items():
            seconds = _time(read)
            if turn:  # the first warms the caches
                times[name].append(seconds / count * 1000)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    records = []
    for name, peer in (("loose", "pillow"), ("tar", "loose"), ("zip", "loose")):
        ratio = float(np.median(np.array(times[peer]) / np.array(times[name])))
        note = {"pillow": "Pillow alone", "loose": "loose file"}[peer]
        records.append(Record(name, medians[name], medians[peer], ratio, "ms", note))
    return records


def _reader(locations: Sequence[str]) -> Callable[[], object]:
    return lambda: [photo.read(location, at=NETWORK_SIZE) for location in locations]


def _read_by_pillow(path: str) -> np.ndarray:
    with Image.open(path) as image:
        image.draft(None, NETWORK_SIZE)
        resized = image.resize(NETWORK_SIZE, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.array(resized)


def _time(act: Callable[[], object]) -> float:
    """Return the processor time of an act in seconds."""
    started = time.process_time()
    act()
    return time.process_time() - started


def _draw(folder: Path, count: int) -> list[str]:
    """Write smooth random images as loose files, and the same files as a tar and a zip."""
    rng, paths = np.random.default_rng(0), list[str]()
    for n in range(count):
        small = rng.integers(0, 255, (24, 32, 3), np.uint8)
        pixels = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        path = folder / f"{n:05d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(str(path))
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in paths:
            archive.add(name, os.path.basename(name))
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in paths:
            zipped.write(name, os.path.basename(name))
    return paths


def _measure_index(folder: Path, members: int) -> list[Record]:
    path = folder / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for n in range(members // 2):
            for ending, data in (("jpg", b"x" * SAMPLE_BYTES), ("cls", b"%d" % (n % 1000))):
                entry = tarfile.TarInfo(f"{n:08d}.{ending}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    options = SampleOptions()
    once = _time(lambda: read_shard(str(path), options))
    again = _time(lambda: read_shard(str(path), options))
    peer = _time(lambda: _list_by_tarfile(path))
    if len(read_shard(str(path), options).labels) != members // 2:
        raise RuntimeError(f"the index of {path} has not {members // 2} samples")
    note = f"tarfile, {members} files"
    return [
        Record("index", once, peer, peer / once, "s", note),
        Record("again", again, peer, peer / again, "s", note),
    ]


def _list_by_tarfile(path: Path) -> None:
    with tarfile.open(path) as archive:
        archive.getmembers()
