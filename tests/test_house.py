"""The house keeps its shape: who may import whom, who may see a box, every choice is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.config import FAMILIES, STAGES, conf_folder, instantiate, options
from pipeline.run import ORDER

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"
ROOMS = (*FAMILIES, "metric", "audit", "inspect")
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of what a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def names(path: Path) -> set[str]:
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_family_imports_records_and_itself_alone(room: str) -> None:
    allowed = ("pipeline.records", f"pipeline.{room}")
    for path in (PACKAGE / room).rglob("*.py"):
        own = {name for name in imports(path) if name.split(".")[0] == "pipeline"} - {"pipeline"}
        strangers = {name for name in own if not name.startswith(allowed)}
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"
        assert not {name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")}


def test_records_import_nothing_of_ours() -> None:
    assert not {name for name in imports(PACKAGE / "records.py") if name.startswith("pipeline")}


def test_only_data_metric_evaluate_and_calibrate_touch_ground_truth() -> None:
    may = {"records.py", "stages/evaluate.py", "stages/calibrate.py", "stages/score.py"}
    for path in MODULES:
        place = path.relative_to(PACKAGE).as_posix()
        if place in may or place.startswith(("data/", "metric/")):
            continue
        assert not names(path) & {"truth", "GroundTruth"}, f"{place} touches ground truth"


def test_no_module_reads_the_configuration_with_a_default() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        assert "config.get(" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("family", FAMILIES)
def test_names_line_up(family: str) -> None:
    """cfg.<family> is conf/<family>/ is pipeline/<family>/."""
    assert (PACKAGE / family).is_dir()
    assert options(family), f"conf/{family} has no choice"


@pytest.mark.parametrize(
    "choice", [f"{family}/{name}" for family in FAMILIES for name in options(family)]
)
def test_every_choice_can_be_built(choice: str, tmp_path: Path) -> None:
    """A method is tested from the day that it exists."""
    family = choice.split("/")[0]
    node = yaml.safe_load((conf_folder() / f"{choice}.yaml").read_text(encoding="utf-8"))
    assert str(node["_target_"]).startswith(f"pipeline.{family}.")
    if family == "data":
        return  # these want files: tests/data builds each
    assert instantiate(choice, node) is not None


def test_every_stage_has_its_file() -> None:
    assert STAGES == ORDER
    for stage in STAGES:
        assert {"made_of", "make"} <= {
            node.name
            for node in ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text()).body
            if isinstance(node, ast.FunctionDef)
        }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
