"""Whatever is wrong with files, disks and processes: one clear line or the very same boxes."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.__main__ import main
from pipeline.formats.files import image_file_stem, write_text
from tests.conftest import Cli

STAGES = ("train", "explain", "localize", "evaluate", "draw", "report")
RUN = ("+experiment=cam", "data.images=64", "data.val_images=24", "train.epochs=2",
       "train.batch=16", "runtime.shard=8", "report.images=2",
       f"stages=[{','.join(STAGES)}]")  # fmt: skip
RESULTS = ("boxes.json", "predictions.json", "metrics.json")


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


def assert_same_results(run: Path, expected: Path) -> None:
    """Byte for byte; the records that differ are named, not two files printed whole."""
    ours, theirs = results(run), results(expected)
    for name in RESULTS:
        if ours[name] != theirs[name]:
            pairs = itertools.zip_longest(ours[name].splitlines(), theirs[name].splitlines())
            lines = [f"{a!r} for {b!r}" for a, b in pairs if a != b]
            pytest.fail(f"{run / name}: {len(lines)} lines differ: " + "; ".join(lines[:5]))


def whole(outputs: Path, stage: str) -> list[Path]:
    return [path for path in (outputs / stage).glob("*") if (path / "DONE").is_file()]


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("label2box: ")
    return text


# -- runs in processes of their own --------------------------------------------------------------


def warm(root: Path) -> None:
    """Import and compile all that a run needs, so that a fork of this process begins with work."""
    import lightning_fabric  # noqa: F401
    import torch
    import torchvision.transforms.v2  # noqa: F401

    torch.set_num_threads(1)
    # No training: what has computed gradients cannot be forked.
    sys.argv = ["pipeline", *RUN, "train.epochs=0", f"outputs={root / 'warm'}"]
    main()


def start(outputs: Path, writes: int = 0) -> int:
    """`python -m pipeline` in a fork of this process; its lines go to OUTPUTS.log.

    With `writes` it is killed just before so many files have taken their names.
    """
    child = os.fork()
    if child:
        return child
    left, replace = itertools.count(writes - 1, -1), os.replace

    def counted(*names: Path) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = counted  # type: ignore[assignment]
    log = os.open(f"{outputs}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["pipeline", *RUN, f"outputs={outputs}"]
    code = 1
    try:
        main()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int, within: float = 300) -> bool:
    """Whether a run came to its end; killed where that takes too long."""
    until = time.monotonic() + within
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status in (0, signal.SIGKILL)
            return status == 0
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def run_undisturbed(outputs: Path) -> float:
    """A run to its end; the seconds that it took."""
    began = time.monotonic()
    assert ended(start(outputs))
    return time.monotonic() - began


def kill_at_random_moments(root: Path, kills: int, took: float) -> None:
    """At moments of time, which fall into what takes long, and at files, which are in all stages;
    what finishes all the same is begun anew elsewhere."""
    moments, tries = random.Random(0), itertools.count()
    outputs = root / f"killed-{next(tries)}"
    while kills:
        if kills % 2:
            finished = ended(start(outputs), moments.uniform(0, took))
        else:
            finished = ended(start(outputs, writes=moments.randint(1, 16)))
        if finished:
            outputs = root / f"killed-{next(tries)}"
        else:
            kills -= 1
    assert ended(start(outputs))


def run_two_at_once(root: Path) -> None:
    both = [start(root / "outputs") for _ in range(2)]
    assert all(ended(child) for child in both)


def work(connection: Connection, root: Path) -> None:
    """Call functions that are sent here, in a process that is warm; send back what they return."""
    warm(root)
    while (task := connection.recv()) is not None:
        function, *arguments = task
        try:
            connection.send((function(*arguments), None))
        except BaseException:  # an assertion, too
            connection.send((None, traceback.format_exc()))


@pytest.fixture(scope="module")
def in_a_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """A function that calls another in a process from which runs are forked.

    It is spawned, not forked: this one has threads, and may have other settings.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work, args=(theirs, tmp_path_factory.mktemp("warm")))
    process.start()
    theirs.close()

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        ours.send((function, *arguments))
        result, error = ours.recv()
        assert error is None, error
        return result

    yield call
    ours.send(None)
    process.join()
    assert process.exitcode == 0


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: its outputs, and the seconds that it took."""

    outputs: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed_run(
    in_a_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    outputs = tmp_path_factory.mktemp("undisturbed")
    return Undisturbed(outputs, in_a_process(run_undisturbed, outputs))


@pytest.fixture(scope="module")
def undisturbed(undisturbed_run: Undisturbed) -> Path:
    return undisturbed_run.outputs


KILLS = int(os.environ.get("LABEL2BOX_KILLS", "4"))  # thirty in ./scripts/test faults


def test_killed_at_random_moments_it_ends_with_the_same_results(
    undisturbed_run: Undisturbed, in_a_process: Callable[..., Any], tmp_path: Path
) -> None:
    undisturbed = undisturbed_run.outputs
    in_a_process(kill_at_random_moments, tmp_path, KILLS, undisturbed_run.seconds)
    killed = sorted(path for path in tmp_path.glob("killed-*") if path.is_dir())
    assert killed
    for outputs in killed:
        assert_same_results(outputs / "latest", undisturbed / "latest")
        assert [len(whole(outputs, stage)) for stage in STAGES] == [1] * len(STAGES)
        assert not list((outputs / "explain").rglob("*.tmp"))


def test_two_runs_at_once_do_the_work_once(
    undisturbed: Path, in_a_process: Callable[..., Any], tmp_path: Path
) -> None:
    in_a_process(run_two_at_once, tmp_path)
    told = Path(f"{tmp_path / 'outputs'}.log").read_text()
    for stage in STAGES:
        assert re.findall(rf"^{stage} +(kept|made) ", told, re.M).count("made") == 1, told
        assert len(re.findall(rf"^{stage} +(kept|made) ", told, re.M)) == 2, told
    runs = list((tmp_path / "outputs/runs/cam").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert_same_results(run, undisturbed / "latest")
        assert (run / "report/index.html").is_file()


# -- disks ---------------------------------------------------------------------------------------

# Files in the middle of each stage's work and of the run folder, and what fails there.
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_SAYS_RUST = RuntimeError("I/O error: No space left on device (os error 28)")
SPOTS = {
    "config.yaml": ("fsync", FULL),
    "state.pt": ("replace", FULL),
    "weights.safetensors": ("fsync", FULL_SAYS_RUST),
    "DONE": ("replace", FULL),
    "shard-000002.safetensors": ("fsync", FULL_SAYS_RUST),
    "boxes.json": ("fsync", FULL),
    "table.json": ("replace", FULL),
    "000020-00019-triangle.jpg": ("fsync", FULL),
    "index.html": ("replace", FULL),
}


def test_a_disk_full_at_any_file_is_one_line_and_goes_on(
    undisturbed: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def failing(call: str, spot: str, error: Exception) -> object:
        real = getattr(os, call)

        def refuse(file: object, *rest: object) -> object:
            path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)
            if f"/.{spot}." in path:
                raise error
            return real(file, *rest)

        return refuse

    for spot, (call, error) in SPOTS.items():
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing(call, spot, error))
            assert cli(*RUN) == 2, spot
        assert "the disk is full" in one_line(capsys.readouterr().err)
        assert not (tmp_path / "outputs/latest").exists()
    assert cli(*RUN) == 0
    assert_same_results(tmp_path / "outputs" / "latest", undisturbed / "latest")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_really_full_disk(
    small_disk: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each try has a little more space than the last one, until it is enough."""
    run = (*RUN, "data.images=32", "data.val_images=8", "runtime.shard=2", "train.epochs=1")
    outputs, filler = small_disk / "outputs", small_disk / "filler"
    codes: list[int] = []
    filled = 16 << 20
    while not codes or codes[-1] != 0:
        gc.collect()  # what torch could not write it keeps open, as a process of its own would not
        free = os.statvfs(small_disk).f_bavail * 4096
        filled = min(filled, free) - (700_000 if codes else 0)
        filler.write_bytes(bytes(filled))
        codes.append(cli(*run, f"outputs={outputs}"))
        if codes[-1]:
            assert "the disk is full" in one_line(capsys.readouterr().err)
        filler.unlink()
    assert set(codes[:-1]) == {2}
    assert len(codes) > 3
    assert cli(*run) == 0
    assert_same_results(outputs / "latest", tmp_path / "outputs" / "latest")


def test_a_read_only_disk(small_disk: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = f"outputs={small_disk / 'outputs'}"
    few = (*RUN, outputs, "train.epochs=0", "stages=[train,explain]")
    assert cli(*few) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    for arguments in (few, (*few, "name=other"), (*few, f"outputs={small_disk / 'new'}")):
        assert cli(*arguments) == 2
        error = one_line(capsys.readouterr().err)
        assert "ead-only" in error
        assert "outputs=DIR writes elsewhere" in error


# -- results that were damaged since -------------------------------------------------------------


def damage(outputs: Path) -> dict[str, Path]:
    shards = sorted((outputs / "explain").glob("*/shard-*"))
    (boxes,) = (outputs / "localize").glob("*/boxes.json")
    (weights,) = (outputs / "train").glob("*/weights.safetensors")
    (done,) = (outputs / "evaluate").glob("*/DONE")
    return {"shard": shards[2], "boxes": boxes, "weights": weights, "DONE": done}


@pytest.mark.parametrize("how", ["deleted", "cut short", "emptied"])
@pytest.mark.parametrize("what", ["shard", "boxes", "weights", "DONE"])
def test_damaged_results_are_made_again(
    what: str, how: str, undisturbed: Path, cli: Cli, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed, outputs, symlinks=True)
    path = damage(outputs)[what]
    stage = path.parent.parent.name
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut short" else b"")
    assert cli(*RUN) == 0
    assert_same_results(outputs / "latest", undisturbed / "latest")
    told = capsys.readouterr().out
    assert re.findall(r"^(\w+) +made ", told, re.M) == [stage]


def test_a_broken_shard_of_a_run_that_was_cut_off_is_made_again(
    undisturbed: Path, cli: Cli, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed, outputs, symlinks=True)
    for stage in ("explain", "localize"):
        shard = sorted((outputs / stage).glob("*/shard-*"))[1]
        shard.write_bytes(shard.read_bytes()[:-9])
        (shard.parent / "DONE").unlink()
    assert cli(*RUN) == 0
    assert_same_results(outputs / "latest", undisturbed / "latest")


def test_shards_of_another_size_do_not_mix(undisturbed: Path, cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed, outputs, symlinks=True)
    (maps,), (cut,) = whole(outputs, "explain"), whole(outputs, "localize")
    (maps / "plan.json").unlink()
    (cut / "DONE").unlink()
    assert cli(*RUN, "runtime.shard=9") == 0  # three shards, as before
    assert_same_results(outputs / "latest", undisturbed / "latest")


def test_a_shard_with_another_content_is_named(
    undisturbed: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed, outputs, symlinks=True)
    shard = damage(outputs)["shard"]
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    assert cli(*RUN, "segmenter.threshold=0.3") == 2
    error = one_line(capsys.readouterr().err)
    assert str(shard.relative_to(tmp_path)) in error
    assert f"delete the folder {shard.parent.relative_to(tmp_path)}" in error
    shutil.rmtree(shard.parent)
    assert cli(*RUN, "segmenter.threshold=0.3") == 0


# -- broken and odd images -----------------------------------------------------------------------

# Name of the file -> what the report says of it.
BROKEN = {
    "cut.jpg": "cannot be read",
    "empty.png": "an empty file",
    "text.jpg": "not an image",
    "bomb.png": "refused",
    "vanished.png": "no such file (any more)",
}
NAMES = ("a b.png", "it's.png", 'quote".png', "a=b.png", "[x]{y},z.png", "new\nline.png",
         "ärger-日本.png", os.fsdecode(b"bytes-\xff\xfe.png"), "x" * 251 + ".png",
         "𠀀" * 62 + ".png", "one/same.png", "two/same.png")  # fmt: skip
MODES = {"grey.png": "L", "palette.png": "P", "cmyk.jpg": "CMYK", "deep.png": "I;16",
         "clear.png": "RGBA", "moving.gif": "RGB"}  # fmt: skip


def picture(seed: int, height: int = 24, width: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(90, 130, (height, width, 3)).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (220, 30 * (seed % 8), 30)
    return Image.fromarray(pixels)


def bomb() -> bytes:
    """A few bytes that claim 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))  # fmt: skip

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def write_broken(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture(0, 200, 200).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture at all")
    (folder / "bomb.png").write_bytes(bomb())


def write_odd(folder: Path) -> int:
    """Odd images that are fine; how many."""
    (folder / "one").mkdir(parents=True)
    (folder / "two").mkdir()
    for n, name in enumerate(NAMES):
        picture(n).save(folder / name)
    for name, mode in MODES.items():
        frames: dict[str, Any] = {"save_all": True, "append_images": [picture(6)]}
        image = picture(5).convert("L" if mode == "I;16" else mode).convert(mode)
        image.save(folder / name, **(frames if name.endswith("gif") else {}))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        picture(turn).save(folder / f"turned-{turn}.jpg", exif=exif)
    picture(0, 1, 1).save(folder / "pixel.png")
    (folder / "loop").symlink_to("..")
    (folder / "round.png").symlink_to("about.png")
    (folder / "about.png").symlink_to("round.png")
    return len(NAMES) + len(MODES) + 8 + 1


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vanished.png` is there when files are listed, and gone when they are read."""
    from pipeline.data import image_search

    search = image_search.search

    def then_gone(folder: str, *arguments: Any) -> image_search.Search:
        found = search(folder, *arguments)
        for path in Path(os.fspath(folder)).rglob("vanished.png"):
            path.unlink()
        return found

    monkeypatch.setattr(image_search, "search", then_gone)


def check_results(run: Path, good: int) -> COCO:
    """Both files load, names are unique, and every image has its boxes."""
    data_set = COCO(str(run / "predictions.json"))
    found = data_set.loadRes(str(run / "boxes.json"))
    names = [image["file_name"] for image in data_set.imgs.values()]
    assert len(names) == len(set(names)) == good
    assert {one["image_id"] for one in found.anns.values()} == set(data_set.imgs)
    (pixel,) = (n for n, image in data_set.imgs.items() if image["file_name"].endswith("pixel.png"))
    assert {tuple(one["bbox"]) for one in found.imgToAnns[pixel]} == {(0, 0, 1, 1)}
    for image in data_set.imgs.values():
        if turned := re.search(r"turned-(\d)", image["file_name"]):
            upright = (24, 32) if int(turned[1]) > 4 else (32, 24)
            assert (image["width"], image["height"]) == upright
    return data_set


@pytest.mark.usefixtures("vanishing")
def test_a_folder_in_which_all_kinds_of_things_are_wrong(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = folder_of_images / "val/it's = [odd] ä"
    good = 8 + write_odd(odd)
    for part in ("train/red", "val/red"):
        write_broken(folder_of_images / part)
        picture(1).save(folder_of_images / part / "vanished.png")
    (folder_of_images / "train" / odd.name).mkdir()
    for n in range(4):
        picture(n).save(folder_of_images / "train" / odd.name / f"{n}.png")
    (folder_of_images / "val/none").mkdir()

    assert cli("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=32",
               "train.epochs=1", "train.batch=8", "runtime.shard=4") == 0  # fmt: skip
    told = capsys.readouterr().out
    assert f"explain: 5 of {good + 5} images could not be read and have no map" in told
    latest = tmp_path / "outputs/latest"
    check_results(latest, good)
    page = (latest / "report/index.html").read_text(encoding="utf-8")
    for name, why in BROKEN.items():
        assert re.search(rf"val/red/{name}: [^\n]*{re.escape(why)}", page), name
    assert re.search(r"1 class folder \([^\n]*val/none[^\n]*\): no image in it, left out", page)
    assert "loop: a link back to a folder above it, not followed" in page
    assert re.search(r"2 links \([^\n]*about\.png[^\n]*\): a link to nothing, left out", page)

    # And the same pictures without labels, from a folder whose name is no text.
    photos = tmp_path / os.fsdecode(b"my photos \xff")
    good = write_odd(photos / "in")
    write_broken(photos)
    assert cli("+experiment=predict", f"checkpoint={latest}", f"images='{photos}'",
               "name=again") == 0  # fmt: skip
    assert f"explain: 4 of {good + 4} images could not be read" in capsys.readouterr().out
    check_results(latest, good)
    pictures = sorted((latest / "pictures").glob("*.*g"))
    assert len(pictures) == good
    for path in pictures:
        with Image.open(path) as drawn:
            drawn.load()


def test_a_run_in_which_everything_is_bad_fails(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("+experiment=cam", "data=folder", "data.size=32", "train.epochs=1", "train.batch=8")
    for split in ("train", "val"):
        write_broken(tmp_path / "bad" / split / "red")
        write_broken(tmp_path / "bad" / split / "blue")
    assert cli(*run, f"data.root={tmp_path / 'bad'}") == 2
    assert "every image was skipped" in one_line(capsys.readouterr().err)

    assert cli(*run, f"data.root={folder_of_images}", "stages=[train]") == 0
    capsys.readouterr()
    predict = ("+experiment=predict", "checkpoint=outputs/latest", f"images={tmp_path / 'bad'}")
    for _ in range(2):  # what failed is looked at again, not remembered
        assert cli(*predict) == 2
        assert "none of 16 images could be read" in one_line(capsys.readouterr().err)
        assert not list((tmp_path / "outputs/explain").rglob("shard-*"))
    assert not (tmp_path / "outputs/draw").exists()


@pytest.mark.parametrize("letter", ["x", "ä", "日", "𠀀"])
def test_names_of_pictures_fit_any_file_system(letter: str, tmp_path: Path) -> None:
    name = f"000001-{image_file_stem(f'a/{letter * 255}.png')}.jpg"
    assert len(name.encode()) <= 91
    write_text(tmp_path / name, "")
    write_text(tmp_path / (letter * (255 // len(letter.encode()))), "")


# -- files that would run code -------------------------------------------------------------------


class Evil:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.mark}'",)


def test_no_file_that_is_loaded_can_run_code(
    undisturbed: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    mark = tmp_path / "ran"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    torch.save({"features.0.weight": Evil(mark)}, tmp_path / "evil.zip.pth")
    shutil.copyfile(tmp_path / "evil.pth", tmp_path / "evil.safetensors")
    for file in ("evil.pth", "evil.zip.pth", "evil.safetensors"):
        assert cli("+experiment=cam", "model=mobilenet_v2", f"model.weights={file}") == 2
        assert "not a file of weights that loads safely" in one_line(capsys.readouterr().err)

    photo = tmp_path / "photo.png"
    picture(0).save(photo)
    predict = ("+experiment=predict", "checkpoint=mine", f"images={photo}")
    (trained,) = whole(undisturbed, "train")
    shutil.copytree(trained, tmp_path / "mine")
    card = json.loads((tmp_path / "mine/card.json").read_text())
    for target in ("os.system", "subprocess.run", "pipeline.model.torchvision.torch.load"):
        card["model"] = {"_target_": target, "command": f"touch '{mark}'"}
        (tmp_path / "mine/card.json").write_text(json.dumps(card))
        assert cli(*predict) == 2
        assert f"_target_={target}: refused" in one_line(capsys.readouterr().err)
    shutil.copyfile(trained / "card.json", tmp_path / "mine/card.json")
    shutil.copyfile(tmp_path / "evil.pth", tmp_path / "mine/weights.safetensors")
    assert cli(*predict) == 2
    assert "not a whole file of safetensors" in one_line(capsys.readouterr().err)
    assert not mark.exists()


def test_a_training_state_that_would_run_code_is_refused(
    undisturbed: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (trained,) = whole(undisturbed, "train")
    state = tmp_path / "outputs/train" / trained.name / "state.pt"
    state.parent.mkdir(parents=True)
    torch.save({"step": 3, "network": Evil(tmp_path / "ran")}, state)
    try:
        assert cli(*RUN) == 2
        assert "state.pt" in one_line(capsys.readouterr().err)
    finally:
        assert not (tmp_path / "ran").exists()
