"""Print what requirements.lock is made of: dependencies in pyproject.toml, and extras for users."""

from __future__ import annotations

import tomllib
from pathlib import Path

NOT_FOR_USERS = ("test", "docs", "dev")
"""Extras that are not in the lock: who works on label2box wants new versions to be tested."""


def list_packages(pyproject: Path) -> list[str]:
    """Return the requirements to lock: of the package, of its extras, and of its build.

    Args:
        pyproject: the path of pyproject.toml.
    """
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    extras = project["optional-dependencies"]
    needed = {*project["dependencies"], *content["build-system"]["requires"]}
    for name, requirements in extras.items():
        if name not in NOT_FOR_USERS:
            needed.update(requirements)
    return sorted(needed)


if __name__ == "__main__":
    print("\n".join(list_packages(Path("pyproject.toml"))))
