"""The packages keep their order: who may import whom, and who may see an annotated box."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.engine.choices import conf_folder, instantiate, list_choices
from pipeline.engine.config import FAMILIES, RUNNER
from pipeline.engine.stage import all_stages, list_stages

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    ("errors", "types", "protocols"),
    ("ops",),
    ("formats",),
    ("plotting",),
    (*FAMILIES, RUNNER, "metric", "exporter", "audit", "visualize"),
    ("results",),
    ("engine",),
    ("stages",),
    ("api", "__main__", "__init__", "launch"),
)
"""From the bottom up: a package imports from the layers below it and from itself alone."""

APART = (*FAMILIES, RUNNER, "metric", "exporter", "audit", "visualize")
"""Families, which do not import one another although they lie in one layer."""

GROUND_TRUTH = ("GroundTruth", "Crowds", "AnnotatedDataSet", "Evidence")
"""The types that carry annotated boxes; who imports none of them cannot see any."""

HUMAN = ("HumanBoxes", "CorrectedImage", "CorrectionFile", "Teaching")
"""The types that carry boxes which a person corrected."""

MAY_SEE_HUMAN = (
    "types/", "formats/", "results/human.py", "engine/human.py", "engine/run.py",
    "stages/ingest/", "stages/calibrate/", "stages/refine/human_targets.py",
)  # fmt: skip

MAY_BE_TAUGHT = (
    "engine/human.py", "engine/run.py", "stages/refine/", "stages/calibrate/",
)  # fmt: skip
"""Who asks for the boxes of a person that teach, as annotate.learn_from_human=true allows: refine,
which learns from them, and calibrate, which does not measure with them."""

MAY_SEE_GROUND_TRUTH = (
    "types/", "protocols/", "formats/", "data/", "metric/",
    "stages/evaluate/", "stages/calibrate/", "stages/check/",
)  # fmt: skip
"""Who reads annotated boxes: who measures with them, and stage check, which says what is wrong with
their file, and whose result no other stage reads."""


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of what a module imports."""
    found: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "pipeline":
                found.update(f"pipeline.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return frozenset(found)


def package_of(path: Path) -> str:
    """The folder or module at the top level of pipeline/ that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(package: str) -> int:
    return next(n for n, packages in enumerate(LAYERS) if package in packages)


def own_imports(path: Path) -> set[str]:
    """The packages of this project that a module imports from, its own left out."""
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
    return ours - {package_of(path)}


def names(path: Path) -> set[str]:
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
    }


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def each_module(check: Callable[[Path], None]) -> Callable[[str], None]:
    """Make a test of each package of what one module is checked for; it names all that fail.

    A test of each of the 550 modules takes longer than what is checked.
    """

    @pytest.mark.parametrize("package", sorted({package_of(path) for path in MODULES}))
    def test(package: str) -> None:
        failed = []
        for path in MODULES:
            if package_of(path) == package:
                try:
                    check(path)
                except AssertionError as error:
                    failed.append(f"{ids(path)}: {error}")
        assert not failed, "\n".join(failed)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def test_every_package_has_its_layer() -> None:
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix != ".typed"}
    assert there - {"__pycache__"} == {name for packages in LAYERS for name in packages}


@each_module
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower layers and from its own package; families not from another."""
    own = layer_of(package_of(path))
    for package in own_imports(path):
        allowed = layer_of(package) < own or (
            layer_of(package) == own and not {package, package_of(path)} & set(APART)
        )
        assert allowed, f"{ids(path)} imports pipeline.{package}"


@each_module
def test_a_stage_imports_no_other_stage(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if parts[0] != "stages" or len(parts) < 3:
        return
    others = {
        name
        for name in imports(path)
        if name.startswith("pipeline.stages.") and name.split(".")[2] != parts[1]
    }
    assert not others, f"{ids(path)} imports {others}"


@each_module
def test_ground_truth_is_seen_by_who_measures_alone(path: Path) -> None:
    if not ids(path).startswith(MAY_SEE_GROUND_TRUTH):
        assert not names_from_pipeline(path) & set(GROUND_TRUTH), f"{ids(path)} imports truth"


@each_module
def test_boxes_of_a_person_reach_no_stage_that_learns_or_finds_boxes(path: Path) -> None:
    if not ids(path).startswith(MAY_SEE_HUMAN):
        assert not names_from_pipeline(path) & set(HUMAN), f"{ids(path)} imports human boxes"
    writing = (
        "stages/rank/", "stages/export/", "stages/annotate/", "stages/report/stage.py",
    )  # fmt: skip
    if not ids(path).startswith((*writing, *MAY_SEE_HUMAN)):
        text = path.read_text(encoding="utf-8")
        for module in ("results.human", "refine.human_targets"):
            text = text.replace(module, "")
        assert ".human" not in text, path
    if not ids(path).startswith(MAY_BE_TAUGHT):
        assert ".teaching" not in path.read_text(encoding="utf-8"), path


@cache
def names_from_pipeline(path: Path) -> frozenset[str]:
    """What a module imports by name from this package."""
    return frozenset(
        alias.name
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")
        for alias in node.names
    )


def test_families_know_neither_hydra_nor_the_store() -> None:
    for family in APART:
        for path in (PACKAGE / family).rglob("*.py"):
            outside = {name.split(".")[0] for name in imports(path)}
            assert not outside & {"hydra", "omegaconf"}, ids(path)


def test_no_module_reads_the_configuration_with_a_default() -> None:
    for path in (PACKAGE / "stages").rglob("*.py"):
        assert "config.get(" not in path.read_text(encoding="utf-8"), path


@each_module
def test_no_file_is_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("family", APART)
def test_names_line_up(family: str) -> None:
    """conf/<family>/ is pipeline/<family>/, and cfg.<family> where a run has one choice of it."""
    assert (PACKAGE / family).is_dir()
    assert list_choices(family), f"conf/{family} has no choice"


@pytest.mark.parametrize(
    "choice", [f"{family}/{name}" for family in APART for name in list_choices(family)]
)
def test_every_choice_can_be_built(choice: str) -> None:
    """A method is tested from the day that it exists."""
    family = choice.split("/")[0]
    node = yaml.safe_load((conf_folder() / f"{choice}.yaml").read_text(encoding="utf-8"))
    assert str(node["_target_"]).startswith(f"pipeline.{family}.")
    if family == "data":
        return  # these want files: tests/data builds each
    assert instantiate(choice, node) is not None


def test_every_stage_declares_itself() -> None:
    """A folder, a YAML and one object that names itself; options in its own config.py."""
    folders = {path.parent.name for path in (PACKAGE / "stages").glob("*/__init__.py")}
    assert set(list_stages()) == folders
    for stage in all_stages():
        own = f"pipeline.stages.{stage.name}."
        assert type(stage).__module__.startswith(own)
        assert stage.options is None or stage.options.__module__ == f"{own}config"
        assert set(stage.after) | set(stage.needs) <= folders


def test_stages_run_after_those_that_they_need() -> None:
    order = list_stages()
    for stage in all_stages():
        for earlier in (*stage.after, *stage.needs):
            assert order.index(earlier) < order.index(stage.name), (earlier, stage.name)


@each_module
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(parse(path)), f"{path} has no docstring"


# -- functions ask for what they use -------------------------------------------------------------

HOLD_THE_RUN = (
    "__main__.py",
    *(
        f"engine/{name}.py"
        for name in ("run", "run_folder", "completion", "config", "options", "stage", "choices",
                     "overrides", "help", "earlier_network", "compared", "found_boxes", "spreading",
                     "addresses", "sweep", "ray_launcher")
    ),
)  # fmt: skip
"""How work is asked for: these make the run and its configuration, and check them."""

RUN_TYPES = {"Run", "pipeline.engine.run.Run"}


def takes_run_or_configuration(argument: ast.arg) -> bool:
    """Whether an argument is the run, or the configuration as a whole."""
    kind = "" if argument.annotation is None else ast.unparse(argument.annotation).strip("\"'")
    if kind.removesuffix(" | None") in RUN_TYPES:
        return True
    is_mapping = kind.split("[")[0].rsplit(".")[-1] in ("Mapping", "dict", "Dict", "Any", "")
    return argument.arg in ("run", "config") and is_mapping


def functions_below_stages(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of a module that are no methods of a stage."""
    of_stages = {
        id(node)
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        and any(ast.unparse(base) == "Stage" for base in kind.bases)
        for node in kind.body
    }
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and id(node) not in of_stages
    ]


@each_module
def test_no_function_below_a_stage_takes_the_run_or_the_whole_configuration(path: Path) -> None:
    if ids(path) in HOLD_THE_RUN:
        return
    for function in functions_below_stages(parse(path)):
        given = function.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            where = f"{ids(path)}:{function.lineno} {function.name}({argument.arg})"
            assert not takes_run_or_configuration(argument), where


def test_each_module_that_fails_is_named() -> None:
    def is_short(path: Path) -> None:
        assert path.name not in ("notes.py", "errors.py"), "not short"

    with pytest.raises(AssertionError, match=r"types/notes\.py: not short"):
        each_module(is_short)("types")
    each_module(is_short)("__main__")


def test_who_takes_the_run_is_noticed() -> None:
    tree = ast.parse(
        "class Mine(Stage):\n    def run(self, run: Run, folder: Path): ...\n"
        "def a(run: Run): ...\ndef b(config: Mapping[str, Any]): ...\ndef c(other: 'Run'): ...\n"
        "def d(run: Callable[[], None]): ...\ndef e(options: Mapping[str, Any]): ...\n"
    )
    noticed = [
        function.name
        for function in functions_below_stages(tree)
        if any(takes_run_or_configuration(argument) for argument in function.args.args)
    ]
    assert noticed == ["a", "b", "c"]
