"""What the documentation says is so: every command runs, every link and picture is there.

A page is read from its top to its end, as a person would. Each block begins where the main job has
just been run: outputs/latest is a run of +experiment=best on the embedded set. Commands run in this
process, on small images and random weights; REPLACED names what they would wait for too long.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.engine.choices import EXTRA_FOLDER
from pipeline.metric import box_counts, max_box_acc, pxap
from pipeline.ops import bootstrap
from pipeline.ops.bootstrap import resampled
from pipeline.types import Rows
from scripts.measure.__main__ import SPEED, STUDIES
from scripts.measure.accuracy import SETS
from scripts.pages import gallery, notebook
from scripts.pages.commands import Block, blocks
from tests.conftest import ROOT
from tests.docs_workshop import furnish

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
# Pages whose commands are run by another test (tests/test_releasing.py), or that have none.
LINKED = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "RELEASING", "SECURITY"))]
LANGUAGES = {"", "bash", "text", "python", "json", "yaml"}
LARGEST, TOGETHER = 370_000, 1_700_000  # bytes of a picture, and of all

QUICK = (
    "runtime.device=cpu", "runtime.workers=1", "runtime.shard=8",
    "train.epochs=1", "train.batch=16", "refine.steps=2", "refine.batch=4",
    "audit.images=2", "audit.few=1", "audit.steps=2", "audit.layers=2", "audit.attack_steps=1",
    "audit.samples=2",
    "inspect.steps=2", "inspect.images=4", "inspect.few=1", "inspect.maps=2",
    "inspect.directions=1", "inspect.side=64", "inspect.octaves=1", "inspect.dream_steps=1",
    "picture.side=64", "picture.panel=64", "draw.side=64",
    "report.images=1",
)  # fmt: skip
QUICK_DATA = {
    "shapes": ("data.images=48", "data.val_images=8"),
    "mosaics": ("data.images=48", "data.val_images=8"),
    "mnist": (),
    "folder": ("data.size=64",),
    "images": ("data.size=64",),
    "cub": ("data.size=64",),
    "openimages30k": ("data.size=64",),
    "table": ("data.size=64",),
}
# What a command says, what it is run with instead, and why.
REPLACED = {
    "model=vgg16": ("model=squeezenet1_0", "the same, with a hundredth of the weights"),
    "model=resnet50": ("model=resnet18", "the same, with a quarter of the weights"),
    "images=photos/": ("images=unlabelled/", "two images of them"),
    "runtime.devices=2": ("runtime.devices=1", "two processes: tests/engine/test_ranks.py"),
    "train.epochs=100": ("train.epochs=7", "patience is 5"),
    "data.size=112": ("data.size=64", "smaller"),
    "train.epochs=8": ("train.epochs=1", "to the end"),
    "train.loggers=[csv,tensorboard]": (
        "train.loggers=[csv]",
        "an extra: tests/stages/test_train.py",
    ),
}
# Lines that are not run here, and why.
NOT_RUN = {
    "source .venv/bin/activate": "enters the environment that this test runs in",
    "tensorboard --logdir outputs/latest/stages/train/logs": "a server, of an extra",
    "python -m pipeline +experiment=compare": "two runs by name; tests/stages/test_report.py",
    "python -m pipeline serve": "a server, until Ctrl-C; tests/engine/test_serve.py",
    "python -m pipeline -m hydra/launcher=": "other processes: tests/engine/test_sweep.py",
    "torchrun --nnodes=2": "two machines; tests/engine/test_ranks.py has torchrun on one",
}
SCRIPTS = {
    "demo": (),
    "lock": (),
    "test": ("tools", "faults", "quick", "coverage"),
    "docs": ("build", "serve", "notebook", "gallery"),
    "accuracy": ("NAME", *SETS, *STUDIES),
    "bench": ("NAME", "all", *SPEED),
    "gpu": ("check", "speed", "peers"),
}


@dataclass(frozen=True)
class Workshop:
    folder: Path
    latest: str  # where outputs/latest points before each block


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A folder in which there is all that the pages speak of, after the main job."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.chdir(folder)
        for module in (bootstrap, box_counts, max_box_acc, pxap):
            patch.setattr(module, "resampled", few_draws)
        furnish(folder)
        for experiment in ("cam", "best"):
            assert pipeline(f"+experiment={experiment}") == 0
        latest = os.readlink("outputs/latest")
        assert pipeline("+experiment=onnx", "run=outputs/latest") == 0
        shutil.copy("outputs/latest/network.onnx", folder)
        yield Workshop(folder, latest)
    bootstrap._interval_of_share.cache_clear()  # it holds intervals of few draws


def pipeline(*words: str) -> int:
    """`python -m pipeline` with words of a page, made quick; gives the exit code."""
    from pipeline.__main__ import main

    words = tuple(REPLACED[word][0] if word in REPLACED else word for word in words)
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    data = given.get("data", data_of(given.get("experiment")))
    is_run = words[0] not in ("clean", "--help", "--version")
    quick = (*QUICK, *QUICK_DATA[data]) if is_run else ()
    if "run" in given:  # has its own options; only where and how it is computed may be said
        quick = tuple(word for word in quick if word.startswith("runtime."))
    flags = [word for word in words[:1] if word == "-m"]
    with pytest.MonkeyPatch.context() as patch:
        # The page has the last word.
        patch.setenv(EXTRA_FOLDER, "")  # what --config-dir sets ends with the command
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "argv", ["pipeline", *flags, *quick, *words[len(flags) :]])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def few_draws(rows: Rows, samples: int, rng: np.random.Generator) -> np.ndarray:
    """What intervals cost most of, on images so few and small."""
    return resampled(rows, min(samples, 20), rng)


def data_of(experiment: str | None) -> str:
    """The data set that an experiment chooses, if nothing is said."""
    text = (ROOT / f"conf/experiment/{experiment}.yaml").read_text() if experiment else ""
    chosen = re.search(r"override /data: (\w+)", text)
    return chosen[1] if chosen else "shapes"


def run(words: Sequence[str]) -> None:
    """A command of a page; one that this test does not know fails."""
    said = " ".join(words)
    if any(said.startswith(known) for known in NOT_RUN):
        return
    if words[:3] == ["python", "-m", "pipeline"]:
        assert pipeline(*words[3:]) == 0
    elif words[0] == "label2box":
        assert pipeline(*words[1:]) == 0
    elif words[0].startswith("./scripts/"):
        script(words)
    else:
        pytest.fail(f"no test knows how to run {said!r}: tests/test_docs.py")


def script(words: Sequence[str]) -> None:
    """That there is such a script, and such a part of it; others run it."""
    name = words[0].removeprefix("./scripts/")
    assert name in SCRIPTS, f"no script of this name: {words[0]}"
    assert os.access(ROOT / "scripts" / name, os.X_OK)
    named = [word for word in words[1:] if "=" not in word]
    assert set(named[:1]) <= set(SCRIPTS[name]), f"{words[0]} has no {named[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_runs(
    page: Path,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workshop.folder)
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language}"
        begin(workshop)
        try:
            for words in block.commands:
                run(words)
            # Those of a page with a notebook are run as its cells.
            if block.language == "python" and page not in notebook.PAGES:
                code = compile(block.text, str(page), "exec", dont_inherit=True)
                exec(code, {"__name__": "__main__"})
        except Exception as error:
            told = capsys.readouterr().err[-2000:]
            pytest.fail(
                f"{page.relative_to(ROOT)}:{block.line}: {block.text.strip()}\n{error}\n{told}"
            )


PEERS = re.compile(r"^(?:from|import) (pytorch_grad_cam|torchcam|captum)\b", re.M)


@pytest.mark.parametrize("page", notebook.PAGES, ids=lambda page: page.name)
def test_a_notebook_is_made_of_its_page_and_runs(
    page: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells run in their order, one after another in one namespace."""
    path = notebook.PAGES[page]
    text = path.read_text(encoding="utf-8")
    assert text == notebook.make_notebook(page.read_text(encoding="utf-8")), (
        f"{path.name} is older than {page.name}: ./scripts/docs notebook"
    )
    monkeypatch.chdir(workshop.folder)
    begin(workshop)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        peer = PEERS.search(source)
        if peer is not None and find_spec(peer[1]) is None:
            continue  # the example of a tool that is not installed
        try:
            exec(compile(source, str(path), "exec", dont_inherit=True), names)
        except Exception as error:
            pytest.fail(f"{path.name}: {source}\n{type(error).__name__}: {error}")


def test_notebooks_are_what_jupyter_reads() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    for path in notebook.PAGES.values():
        nbformat.validate(nbformat.read(path, as_version=4))


def begin(workshop: Workshop) -> None:
    latest = workshop.folder / "outputs/latest"
    latest.unlink()
    latest.symlink_to(workshop.latest)


def test_what_was_replaced_and_left_out_is_still_there() -> None:
    """No exception outlives its command."""
    told = [words for page in PAGES for block in blocks(page) for words in block.commands]
    assert not set(REPLACED) - {word for words in told for word in words}
    lines = [" ".join(words) for words in told]
    assert not [known for known in NOT_RUN if not any(line.startswith(known) for line in lines)]


def test_a_command_that_nobody_knows_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n```\npip install this  # and that\n```\n\n`./scripts/nothing`\n\n```text\nx\n```\n"
    )
    (fence, inline, text) = blocks(page)
    assert (fence.line, inline.line, text.commands) == (3, 7, [])
    for block in (fence, inline):
        (words,) = block.commands
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            run(words)


def test_lines_that_go_on_are_one_command() -> None:
    block = Block(1, "", "# first\n./a 'b c' \\\n    d  # last\n\ne\n")
    assert block.commands == [["./a", "b c", "d"], ["e"]]


# -- links, pictures, the site ---------------------------------------------------------------------

LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page: Path) -> None:
    for link in LINK.finditer(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.is_file(), f"{page.relative_to(ROOT)}: {link['path']}"
        if link["anchor"]:
            assert link["anchor"] in anchors(target), f"{page.relative_to(ROOT)}: {link[0]}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as mkdocs and the web views of repositories have them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    plain = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
    return {re.sub(r"[\s]+", "-", head) for head in plain}


def test_every_page_is_in_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = set(leaves(site["nav"]))
    assert named >= {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert all((DOCS / name).is_file() or (ROOT / name).is_file() for name in named)


def leaves(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        assert isinstance(node, dict | list)
        for inner in node.values() if isinstance(node, dict) else node:
            yield from leaves(inner)


def test_pictures_are_small() -> None:
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".jpg", ".png")]
    large = [path.name for path in pictures if path.stat().st_size > LARGEST]
    assert not large
    assert sum(path.stat().st_size for path in pictures) < TOGETHER


def test_every_picture_of_the_gallery_has_its_command() -> None:
    made = {shot.picture: shot for name in gallery.PAGES for shot in gallery.shots(DOCS / name)}
    assert set(made) >= set((DOCS / "gallery").iterdir()) | {DOCS / "classics.jpg"}
    for shot in made.values():
        assert shot.picture.is_file()
        assert shot.commands
        assert all(source.startswith("outputs/latest/") for source in shot.sources)
        assert shot.picture.stat().st_size <= gallery.LARGEST


def test_pictures_side_by_side(tmp_path: Path) -> None:
    low, high = np.zeros((20, 30, 3), np.uint8), np.full((40, 60, 3), 200, np.uint8)
    row = gallery.beside([low, high])
    assert row.shape == (20, 30 + 8 + 30, 3)
    assert (row[:, :30] == 0).all()
    assert (row[:, 38:] == 200).all()
    gallery.write(tmp_path / "row.jpg", row)
    assert gallery.read(tmp_path / "row.jpg", tmp_path).shape == row.shape


def test_extras_that_pages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        assert set(re.findall(r"'label2box\[(\w+)\]'", page.read_text())) <= set(extras)
