"""Which edits change the key of a stage, and which keep it: on a copy of the project's sources."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.engine import sources, syntax
from pipeline.engine.sources import NO_SOURCE, SourceCache, forget_sources, hash_sources, open_cache
from pipeline.engine.syntax import parse_source
from pipeline.formats import files

PACKAGE = sources.PACKAGE
STAGES = {  # what each hashes in the experiment cam
    "train": ("data.shapes", "model.small", "objective.cross_entropy"),
    "explain": ("data.shapes", "saliency.smoothgrad"),
    "localize": ("segmenter.threshold",),
    "evaluate": ("data.shapes",),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    unwanted = shutil.ignore_patterns("__pycache__", "conf")
    return Path(shutil.copytree(PACKAGE, folder / "pipeline", ignore=unwanted))


@pytest.fixture
def copy(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that is hashed in place of the real one, with a cache of its own."""
    monkeypatch.setattr(sources, "PACKAGE", copied)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(copied.parent))
    yield copied
    forget_sources()


@pytest.fixture
def fresh_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget_sources()
    yield
    forget_sources()


def read_keys(*modules: str, drawing: bool = False) -> dict[str, str]:
    """The hashes as a new process finds them."""
    forget_sources()
    return hash_sources([f"pipeline.{module}" for module in modules], drawing)


def stage_modules(stage: str) -> list[str]:
    return [f"stages.{stage}.stage", *STAGES[stage]]


# -- edits, each made in the first file of a stage in which there is something to edit -----------

Edit = Callable[[ast.AST], bool]
"""Changes a node in place; returns whether it did."""


def edit_error_text(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return any(edit_text(argument) for argument in node.exc.args)
    return False


def edit_printed_text(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "terminal.print_line":
        return edit_text(node.args[0])
    return False


def edit_text(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return any(edit_text(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node.value += " in other words"
        return True
    return False


def edit_docstring(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        assert isinstance(node.body[0], ast.Expr)
        return edit_text(node.body[0].value)
    return False


def edit_number(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value += 1  # type: ignore[operator]
        return True
    return False


def edit_default(node: ast.AST) -> bool:
    if isinstance(node, ast.arguments) and node.defaults:
        node.defaults[-1] = ast.Constant(value=12345)
        return True
    return False


def edit_operator(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        node.op = ast.FloorDiv()
        return True
    return False


def edit_autocast(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("autocast"):
        return False
    for keyword in node.keywords:
        if keyword.arg == "enabled":
            keyword.value = ast.Constant(value=True)
            return True
    return False


def edit_seed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
        ("manual_seed", "default_rng")
    ):
        node.args = [ast.Constant(value=12345)]
        return True
    return False


def edit_raised_value(node: ast.AST) -> bool:
    """Of an f-string in an error."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        for part in ast.walk(node.exc):
            if isinstance(part, ast.FormattedValue):
                part.value = ast.Constant(value=12345)
                return True
    return False


def edit_compared_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare) and any(edit_text(other) for other in node.comparators)


def edit_looked_up_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and edit_text(node.slice)


def edit_key(node: ast.AST) -> bool:
    return isinstance(node, ast.Dict) and any(edit_text(key) for key in node.keys if key)


def edit_import(node: ast.AST) -> bool:
    if isinstance(node, ast.Module):
        node.body.append(ast.Import(names=[ast.alias(name="colorsys")]))
    return isinstance(node, ast.Module)


def edit_annotation(node: ast.AST) -> bool:
    if isinstance(node, ast.arg) and node.annotation is not None:
        node.annotation = ast.Constant(value="Another")
        return True
    return False


PROSE = {
    "docstring": edit_docstring,
    "error text": edit_error_text,
    "printed text": edit_printed_text,
}
CODE = {
    "constant": edit_number,
    "default argument": edit_default,
    "operator": edit_operator,
    "autocast": edit_autocast,
    "use of a seed": edit_seed,
    "value in an error": edit_raised_value,
    "compared text": edit_compared_text,
    "looked up text": edit_looked_up_text,
    "key": edit_key,
    "import": edit_import,
    "annotation": edit_annotation,
}
# Nothing to edit.
ABSENT = {("use of a seed", "localize")} | {
    ("printed text", stage) for stage in ("evaluate", "explain", "localize")
}


def list_edits(edits: Mapping[str, Edit]) -> list[tuple[str, str]]:
    return [(name, stage) for name in edits for stage in STAGES if (name, stage) not in ABSENT]


def make_edit(edit: Edit, stage: str, copy: Path) -> Path:
    """Edit the first file that counts in a stage's key and has what is to be edited."""
    modules = sorted(read_keys(*stage_modules(stage)), key=lambda name: f".{stage}." not in name)
    for module in modules:
        path = copy.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_bytes())
        if any(edit(node) for node in ast.walk(tree)):
            path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
            return path
    raise AssertionError(f"nothing to edit in what stage {stage} imports")


@pytest.fixture
def edited(copy: Path) -> Iterator[Callable[[Edit, str], None]]:
    """Edit a file of the copy, for one test."""
    edited: list[Path] = []

    def edit(how: Edit, stage: str) -> None:
        edited.append(make_edit(how, stage, copy))

    yield edit
    for path in edited:
        shutil.copyfile(PACKAGE / path.relative_to(copy), path)


@pytest.mark.parametrize(("name", "stage"), list_edits(PROSE))
def test_an_edit_of_prose_keeps_the_key(
    name: str, stage: str, edited: Callable[[Edit, str], None]
) -> None:
    before = read_keys(*stage_modules(stage))
    edited(PROSE[name], stage)
    assert read_keys(*stage_modules(stage)) == before


@pytest.mark.parametrize(("name", "stage"), list_edits(CODE))
def test_an_edit_of_code_changes_the_key(
    name: str, stage: str, edited: Callable[[Edit, str], None]
) -> None:
    before = read_keys(*stage_modules(stage))
    edited(CODE[name], stage)
    assert read_keys(*stage_modules(stage)) != before


@pytest.mark.parametrize("stage", STAGES)
def test_comments_in_all_files_keep_the_key(stage: str, copy: Path) -> None:
    before = read_keys(*stage_modules(stage))
    files = sorted(copy.rglob("*.py"))
    try:
        for path in files:
            with path.open("a") as file:
                file.write("\n\n# a comment\n")
        assert read_keys(*stage_modules(stage)) == before
    finally:
        for path in files:
            shutil.copyfile(PACKAGE / path.relative_to(copy), path)


# -- what is skipped -----------------------------------------------------------------------------

SKIPPED = ("plotting/sheet.py", "plotting/colours.py", "exporter/coco.py", "engine/progress.py",
           "stages/report/stage.py", "engine/store.py", "engine/run_folder.py")  # fmt: skip


@pytest.fixture
def changed_code(copy: Path) -> Iterator[Callable[[str], None]]:
    names: list[str] = []

    def change(name: str) -> None:
        names.append(name)
        with (copy / name).open("a") as file:
            file.write("\nEDITED = 1\n")

    yield change
    for name in names:
        shutil.copyfile(PACKAGE / name, copy / name)


@pytest.mark.parametrize("stage", [*STAGES, "audit", "calibrate", "refine", "compare"])
def test_how_results_are_drawn_and_kept_keeps_the_key(
    stage: str, changed_code: Callable[[str], None]
) -> None:
    before = read_keys(f"stages.{stage}.stage")
    for name in SKIPPED:
        changed_code(name)
    assert read_keys(f"stages.{stage}.stage") == before


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("draw", "plotting/boxes.py"),
        ("picture", "plotting/sheet.py"),
        ("picture", "plotting/colours.py"),
        ("report", "plotting/boxes.py"),
        ("report", "stages/report/words.py"),
        ("inspect", "plotting/grids.py"),
    ],
)
def test_what_draws_counts_where_the_result_is_a_drawing(
    stage: str, file: str, changed_code: Callable[[str], None]
) -> None:
    module = f"stages.{stage}.stage"
    views = [f"visualize.{view}" for view in ("filters", "features")]
    modules = [module, *(views if stage == "inspect" else [])]
    before, without = read_keys(*modules, drawing=True), read_keys(*modules)
    changed_code(file)
    assert read_keys(*modules, drawing=True) != before
    assert read_keys(*modules) == without


def test_what_draws_or_exports_leads_to_nothing_else(
    copy: Path, changed_code: Callable[[str], None]
) -> None:
    """What only a skipped module imports does not count either."""
    stage, helper = copy / "stages/localize/drawer.py", copy / "ops/of_drawer.py"
    stage.write_text("from pipeline.plotting import sheet\nfrom pipeline.exporter import coco\n")
    helper.write_text("x = 1\n")
    try:
        with (copy / "plotting/sheet.py").open("a") as file:
            file.write("\nfrom pipeline.ops import of_drawer\n")
        assert "pipeline.ops.of_drawer" not in read_keys("stages.localize.drawer")
        assert "pipeline.ops.of_drawer" in read_keys("stages.localize.drawer", drawing=True)
    finally:
        stage.unlink()
        helper.unlink()
        shutil.copyfile(PACKAGE / "plotting/sheet.py", copy / "plotting/sheet.py")


def test_a_module_that_is_imported_anew_counts(copy: Path) -> None:
    method, helper = copy / "saliency/mine.py", copy / "saliency/of_mine.py"
    method.write_text("x = 1\n")
    helper.write_text("x = 1\n")
    try:
        assert "pipeline.saliency.of_mine" not in read_keys("saliency.mine")
        for line in ("from pipeline.saliency import of_mine", "from . import of_mine",
                     "from .of_mine import x", "import pipeline.saliency.of_mine"):  # fmt: skip
            method.write_text(f"{line}\n")
            assert "pipeline.saliency.of_mine" in read_keys("saliency.mine"), line
    finally:
        method.unlink()
        helper.unlink()


# -- modules from outside the project ------------------------------------------------------------


@pytest.fixture
def outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_caches: None
) -> Callable[[str, str], Path]:
    """Write a file into a folder from which modules are imported."""
    folder = tmp_path / "outside"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def read_outside(module: str) -> dict[str, str]:
    forget_sources()
    return hash_sources([module])


Write = Callable[[str, str], Path]


def test_a_module_from_outside_is_hashed_as_code(outside: Write) -> None:
    outside("outside_alone.py", "x = 1\n")
    before = read_outside("outside_alone")
    assert list(before) == ["outside_alone"]
    outside("outside_alone.py", '"""What it is."""\nx = 1  # and why\n')
    assert read_outside("outside_alone") == before
    outside("outside_alone.py", "x = 2\n")
    assert read_outside("outside_alone") != before


@pytest.mark.parametrize(
    "line",
    [
        "import outside_helper",
        "from outside_helper import f",
        "def late():\n    from outside_helper import f",
        "import outside_package.helper",
        "from outside_package import helper",
    ],
)
def test_what_lies_beside_it_counts_where_it_is_imported(line: str, outside: Write) -> None:
    outside("outside_helper.py", "import outside_deeper\n")
    outside("outside_package/__init__.py", "")
    outside("outside_package/helper.py", "import outside_deeper\n")
    outside("outside_deeper.py", "x = 1\n")
    outside("outside_other.py", "x = 1\n")
    outside("outside_method.py", f"import numpy as np\nimport os.path, torch\n{line}\n")
    before = read_outside("outside_method")
    assert "outside_deeper" in before
    assert not {"numpy", "os", "torch", "outside_other"} & set(before)
    outside("outside_other.py", "x = 2\n")
    assert read_outside("outside_method") == before
    outside("outside_deeper.py", "x = 2\n")
    after = read_outside("outside_method")
    assert {name for name in after if after[name] != before[name]} == {"outside_deeper"}


def test_a_package_from_outside(outside: Write) -> None:
    outside("outside_lab/__init__.py", "from .methods.cam import CAM\n")
    outside("outside_lab/methods/__init__.py", "")
    outside("outside_lab/methods/cam.py", "from .. import tools\nfrom .base import Base\n")
    outside("outside_lab/methods/base.py", "x = 1\n")
    outside("outside_lab/tools.py", "x = 1\n")
    outside("outside_lab/unused.py", "x = 1\n")
    names = ["", ".methods", ".methods.base", ".methods.cam", ".tools"]
    expected = {f"outside_lab{name}" for name in names}
    assert set(read_outside("outside_lab")) == expected
    assert set(read_outside("outside_lab.methods.cam")) == expected, "its package runs first"
    assert set(read_outside("outside_lab.methods.base")) == expected


def test_a_package_without_init(outside: Write) -> None:
    outside("outside_space/methods/cam.py", "import outside_space.tools\nimport outside_beside\n")
    outside("outside_space/tools.py", "x = 1\n")
    outside("outside_beside.py", "x = 1\n")
    before = read_outside("outside_space.methods.cam")
    assert {"outside_space.methods.cam", "outside_space.tools", "outside_beside"} <= set(before)
    outside("outside_space/tools.py", "x = 2\n")
    assert read_outside("outside_space.methods.cam") != before


def test_what_it_imports_of_the_project_counts(outside: Write) -> None:
    outside("outside_cam.py", "from pipeline.saliency.cam import CAM\n")
    keys = read_outside("outside_cam")
    assert "pipeline.saliency.cam" in keys
    assert set(hash_sources(["pipeline.saliency.cam"])) < set(keys)


def test_nothing_of_it_is_imported(outside: Write) -> None:
    outside("outside_loud/__init__.py", "raise RuntimeError('imported')\n")
    outside("outside_loud/method.py", "from . import helper\nraise RuntimeError('imported')\n")
    outside("outside_loud/helper.py", "raise RuntimeError('imported')\n")
    assert len(read_outside("outside_loud.method")) == 3
    assert "outside_loud" not in sys.modules


def test_what_cannot_be_parsed_counts_by_its_bytes(outside: Write) -> None:
    path = outside("outside_broken.py", "x = (\n")
    before = read_outside("outside_broken")
    assert len(before["outside_broken"]) == 16
    path.write_text("x = ( # a comment\n")
    assert read_outside("outside_broken") != before


def test_a_compiled_module_and_a_zip_file_count_by_their_bytes(
    outside: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix = ".so" if sys.platform != "win32" else ".pyd"
    compiled = outside(f"outside_compiled{suffix}", "")
    compiled.write_bytes(b"\x7fELF\0")
    before = read_outside("outside_compiled")
    compiled.write_bytes(b"\x7fELF\1")
    assert read_outside("outside_compiled") != before
    archive = compiled.with_name("outside.zip")
    monkeypatch.syspath_prepend(str(archive))
    hashes = set()
    for value in (1, 2):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("outside_zipped.py", f"x = {value}\n")
        sys.path_importer_cache.pop(str(archive), None)
        hashes.add(read_outside("outside_zipped")["outside_zipped"])
    assert len(hashes) == 2


def test_what_has_no_file_is_named(fresh_caches: None) -> None:
    assert hash_sources(["sys", "no_such_module"]) == {
        "no_such_module": NO_SOURCE,
        "sys": NO_SOURCE,
    }


def test_libraries_and_what_is_installed_are_not_followed(
    outside: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(hash_sources(["torchvision.models.resnet", "collections"])) == [
        "collections", "torchvision.models.resnet",
    ]  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path / "outside/site-packages"))
    outside("site-packages/outside_a.py", "import outside_b\n")
    outside("site-packages/outside_b.py", "")
    outside("site-packages/outside_c/__init__.py", "from . import d\nimport outside_b\n")
    outside("site-packages/outside_c/d.py", "")
    assert list(read_outside("outside_a")) == ["outside_a"]
    assert list(read_outside("outside_c")) == ["outside_c", "outside_c.d"]


# -- what is remembered --------------------------------------------------------------------------


@pytest.fixture
def aged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that is old enough to be remembered."""
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    path = tmp_path / "source.py"
    path.write_text("x = 1\n")
    time.sleep(0.02)
    return path


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(content: bytes) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(sources, "parse_source", refuse)


def test_the_next_process_parses_nothing(
    aged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SourceCache(tmp_path / "cache/kept.json")
    source = first.read(aged)
    first.save()
    forbid_parsing(monkeypatch)
    assert SourceCache(tmp_path / "cache/kept.json").read(aged) == source


def test_an_edit_of_the_same_size_and_time_is_seen(aged: Path, tmp_path: Path) -> None:
    first = SourceCache(tmp_path / "kept.json")
    before, stat = first.read(aged), aged.stat()
    first.save()
    aged.write_text("x = 2\n")
    os.utime(aged, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert SourceCache(tmp_path / "kept.json").read(aged) != before


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    """Within a tick of the clock it may change again, and look the same."""
    path = tmp_path / "source.py"
    path.write_text("x = 1\n")
    cache = SourceCache(tmp_path / "kept.json")
    cache.read(path)
    cache.save()
    assert not (tmp_path / "kept.json").exists()


def test_a_process_reads_a_file_once(tmp_path: Path) -> None:
    """Its results are made by the code that it imported, not by what was edited since."""
    path = tmp_path / "source.py"
    path.write_text("x = 1\n")
    cache = SourceCache(None)
    before = cache.read(path)
    path.write_text("x = 20\n")
    assert cache.read(path) == before
    assert SourceCache(None).read(path) != before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", '{"a": 1}', '{"SOURCE": [[1, 2], "a", []]}', '{"SOURCE": [1, 2, 3]}',
     '{"SOURCE": [["a", 2, 3], "a", []]}', "\xff"],
)  # fmt: skip
def test_a_damaged_cache_is_ignored_and_written_anew(
    text: str, aged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(text.replace("SOURCE", str(aged)), encoding="latin-1")
    cache = SourceCache(kept)
    assert cache.read(aged) == parse_source(b"x = 1\n")
    cache.save()
    forbid_parsing(monkeypatch)
    SourceCache(kept).read(aged)


def test_a_cache_that_cannot_be_written_is_ignored(aged: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = SourceCache(tmp_path / "file/kept.json")
    cache.read(aged)
    cache.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source.py"]


def test_removed_sources_are_forgotten(aged: Path, tmp_path: Path) -> None:
    kept, other = tmp_path / "kept.json", aged.with_name("other.py")
    other.write_text("x = 3\n")
    time.sleep(0.02)
    first = SourceCache(kept)
    first.read(aged)
    first.read(other)
    first.save()
    aged.unlink()
    other.write_text("x = 44\n")
    time.sleep(0.02)
    second = SourceCache(kept)
    second.read(other)
    second.save()
    assert str(other) in kept.read_text()
    assert str(aged) not in kept.read_text()


def test_a_cache_is_for_one_version_of_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_caches: None
) -> None:
    """Whoever edits how sources are hashed need not know of the cache."""
    edited = tmp_path / "syntax.py"
    shutil.copyfile(syntax.__file__, edited)
    names = [open_cache()._file]
    with edited.open("a") as file:
        file.write("# edited\n")
    monkeypatch.setattr(syntax, "__file__", str(edited))
    forget_sources()
    names.append(open_cache()._file)
    assert None not in names
    assert len(set(names)) == 2


@pytest.mark.parametrize("folder", ["relative", ""])
def test_without_a_folder_for_it_there_is_no_cache(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    monkeypatch.setenv("HOME", "no/home")
    forget_sources()
    try:
        assert hash_sources(["pipeline.ops.iou"])
        assert not list(tmp_path.iterdir())
    finally:
        forget_sources()


def test_seeing_that_all_is_done_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.engine.sources import hash_sources;"
        "hash_sources(['pipeline.stages.train.stage', 'torchvision.models.resnet']);"
        "print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
