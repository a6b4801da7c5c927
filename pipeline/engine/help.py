"""What `--help` prints: experiments, families, their choices and every option with its default.

Read from YAML and source as text, so that asking for help imports no library.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.engine.choices import conf_folder, list_choices
from pipeline.engine.config import FAMILIES, STAGES, Skeleton

HEAD = """label2box: image labels in, boxes out

  python -m pipeline +experiment=cam                        the main job, on the embedded data set
  python -m pipeline +experiment=cam data=folder data.root=FOLDER model=mobilenet_v2
  python -m pipeline -m +experiment=cam segmenter.threshold=0.15,0.2,0.3          a sweep
  python -m pipeline +experiment=explain images=photo.jpg   maps of a pretrained network as pictures
  python -m pipeline +experiment=cam --cfg job              show the configuration, run nothing

key=value sets an option, group=choice makes a choice; the README has the whole story."""


def help_text() -> str:
    parts = [HEAD, "\nExperiments (+experiment=NAME)"]
    parts += [
        f"  {name:<14} {_first_comment('experiment', name)}" for name in list_choices("experiment")
    ]
    for family in FAMILIES:
        parts.append(f"\n{family}=CHOICE, then {family}.OPTION=VALUE")
        told: dict[str, list[str]] = {}
        for name in list_choices(family):
            told.setdefault(_signature(family, name), []).append(name)
        for signature, names in told.items():
            parts.append(f"  {', '.join(names)}")
            parts += [f"      {line}" for line in signature.split("\n") if line]
    parts.append(f"\nstages=[{','.join(STAGES)}]: those to run; the results of others are reused")
    parts.append("\nOptions of stages, runtime and the rest")
    parts += [f"  {line}" for line in _knobs(Skeleton, "")]
    return "\n".join(parts)


def _first_comment(group: str, name: str) -> str:
    lines = (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8").split("\n")
    comments = (
        line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line
    )
    return next(comments, "")


def _signature(family: str, name: str) -> str:
    """The options of a choice with their annotations and defaults, a line each."""
    path = conf_folder() / family / f"{name}.yaml"
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    module, _, wanted = str(node["_target_"]).rpartition(".")
    source = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    if not source.is_file():
        return ""
    text = source.read_text(encoding="utf-8")
    lines = text.split("\n")
    own = next(c for c in ast.parse(text).body if isinstance(c, ast.ClassDef) and c.name == wanted)
    told = []
    for field in own.body:
        if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
            continue
        assert isinstance(field.target, ast.Name)
        default = "(must be given)" if field.value is None else f"= {ast.unparse(field.value)}"
        option = field.target.id
        if option in node:
            continue  # the choice settles it
        told.append(f"{family}.{option}: {ast.unparse(field.annotation)} {default}"
                    + _comment(lines[(field.end_lineno or field.lineno) - 1]))  # fmt: skip
    return "\n".join(told)


def _comment(line: str) -> str:
    return f"  # {line.split('  # ', 1)[1]}" if "  # " in line else ""


def _knobs(node: type[Any], prefix: str) -> Iterator[str]:
    whole = Path(__file__).with_name("config.py").read_text(encoding="utf-8")
    source = whole.partition(f"\nclass {node.__name__}:\n")[2].split("\n")
    for field in fields(node):
        if field.name in FAMILIES or field.name == "stages":
            continue
        made = field.default_factory
        if isinstance(made, type) and is_dataclass(made):
            yield from _knobs(made, f"{prefix}{field.name}.")
            continue
        default = made() if made is not MISSING else field.default
        own = next((s for s in source if s.startswith(f"    {field.name}: ")), "")
        shown = (
            "null"
            if default is None
            else str(default).lower()
            if default is False or default is True
            else default
        )
        yield f"{prefix}{field.name} = {shown}{_comment(own)}"
