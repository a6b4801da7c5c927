"""pyproject.toml declares what is imported, and what it declares is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"pipeline", "scripts", "tests"}

# Packages whose module has another name.
MODULES = {
    "hydra-core": "hydra",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
# Declared, and used by a name in a command or a configuration, or by another package.
NOT_IMPORTED = {
    "aiohttp": "fsspec imports it for http:// and https://",
    "build": "RELEASING.md",
    "coverage": "scripts/test",
    "flask": "moto.server imports it",
    "flask-cors": "moto.server imports it",
    "gcsfs": "fsspec imports it for gs://",
    "hatchling": "pyproject.toml's build-backend",
    "hydra-joblib-launcher": "hydra/launcher=joblib",
    "hydra-submitit-launcher": "hydra/launcher=submitit_local and submitit_slurm",
    "mkdocs-material": "mkdocs.yml",
    "mkdocstrings": "mkdocs.yml",
    "mypy": "scripts/test",
    "onnxscript": "torch.onnx.export imports it",
    "pre-commit": "CONTRIBUTING.md",
    "pytest-xdist": "runs tests in parallel: pytest -n",
    "ruff": "scripts/test",
    "s3fs": "fsspec imports it for s3://",
    "tensorboard": "train.loggers=[tensorboard], by lightning-fabric",
    "ttach": "grad-cam imports it",
    "types-pyyaml": "mypy",
}
# Imported, and installed in another way.
NOT_DECLARED = {
    "griffe": "mkdocstrings depends on it",
    "joblib": "hydra-joblib-launcher depends on it",
    "mkdocs": "mkdocs-material depends on it",
    "packaging": "pytest depends on it",
    "pytorch_grad_cam": "scripts/install",
}


def declared(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in requirements}


def module_of(package: str) -> str:
    return MODULES.get(package, package.replace("-", "_"))


@cache
def imported(folder: str) -> dict[str, bool]:
    """The modules of other packages that a folder imports: whether one is needed at run time."""
    needed: dict[str, bool] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module, at_run_time in imports(path):
            if module not in OURS and module not in sys.stdlib_module_names:
                needed[module] = needed.get(module, False) or at_run_time
    return needed


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node not in for_types
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node not in for_types


def test_what_the_package_imports_is_declared() -> None:
    at_run_time = {module for module, needed in imported("pipeline").items() if needed}
    required = {module_of(name) for name in declared(PROJECT["dependencies"])}
    optional = {
        module_of(name)
        for key in set(EXTRAS) - {"test", "docs", "dev"}
        for name in declared(EXTRAS[key])
    }
    assert at_run_time <= required | optional
    assert required <= at_run_time


@pytest.mark.parametrize("folder", ["scripts", "tests"])
def test_what_tests_and_scripts_import_is_declared(folder: str) -> None:
    everything = declared(PROJECT["dependencies"]).union(*map(declared, EXTRAS.values()))
    assert set(imported(folder)) <= {module_of(name) for name in everything} | set(NOT_DECLARED)


def test_extras_are_used() -> None:
    used = {module for folder in sorted(OURS) for module in imported(folder)}
    for extra, requirements in EXTRAS.items():
        for name in declared(requirements):
            assert (module_of(name) in used) != (name in NOT_IMPORTED), f"{extra}: {name}"


def test_jaxtyping_is_for_type_checkers_alone() -> None:
    assert imported("pipeline")["jaxtyping"] is False
