"""The text of `--help`: experiments, families, their choices, and all options with their defaults.

It is read from YAML, from the options that stages declare, and from source as text, so that
`--help` imports no heavy library.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pipeline.engine.choices import choice_files, list_choices, read_choice
from pipeline.engine.config import FAMILIES, skeleton
from pipeline.engine.options import default_of, rules_of, walk_options
from pipeline.engine.stage import list_stages

HEAD = """label2box: image labels in, boxes out

  python -m pipeline +experiment=cam                        the main job, on the embedded data set
  python -m pipeline +experiment=cam data=folder data.root=FOLDER model=mobilenet_v2
  python -m pipeline -m +experiment=cam segmenter.threshold=0.15,0.2,0.3          a sweep
  python -m pipeline +experiment=explain images=photo.jpg   maps of a pretrained network as pictures
  python -m pipeline +experiment=cam --cfg job              show the configuration, run nothing

key=value sets an option, group=choice makes a choice; the README has the whole story."""


def help_text() -> str:
    """Return what `--help` prints."""
    parts = [HEAD, "\nExperiments (+experiment=NAME)"]
    parts += [
        f"  {name:<14} {_first_comment(path)}" for name, path in choice_files("experiment").items()
    ]
    for family in FAMILIES:
        parts.append(f"\n{family}=CHOICE, then {family}.OPTION=VALUE")
        by_signature: dict[str, list[str]] = {}
        for name in list_choices(family):
            by_signature.setdefault(_signature(family, name), []).append(name)
        for signature, names in by_signature.items():
            parts.append(f"  {', '.join(names)}")
            parts += [f"      {line}" for line in signature.split("\n") if line]
    stages = ",".join(list_stages())
    parts.append(f"\nstages=[{stages}]: those to run; the results of others are reused")
    parts.append("\nOptions of stages, runtime and the rest")
    parts += [f"  {line}" for line in _option_lines()]
    return "\n".join(parts)


def _first_comment(path: Path) -> str:
    """Return the text of the first comment of a YAML file; empty where there is none."""
    lines = path.read_text(encoding="utf-8").split("\n")
    comments = (
        line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line
    )
    return next(comments, "")


def _signature(family: str, name: str) -> str:
    """Return the options of a choice with their annotations and defaults, a line each."""
    node = read_choice(family, name)
    module, _, class_name = str(node["_target_"]).rpartition(".")
    source = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    if not source.is_file():
        return ""
    text = source.read_text(encoding="utf-8")
    lines = text.split("\n")
    definition = next(
        statement
        for statement in ast.parse(text).body
        if isinstance(statement, ast.ClassDef) and statement.name == class_name
    )
    described = []
    for field in definition.body:
        if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
            continue
        assert isinstance(field.target, ast.Name)
        default = "(must be given)" if field.value is None else f"= {ast.unparse(field.value)}"
        option = field.target.id
        if option in node:
            continue  # the YAML of the choice gives it
        described.append(f"{family}.{option}: {ast.unparse(field.annotation)} {default}"
                    + _comment(lines[(field.end_lineno or field.lineno) - 1]))  # fmt: skip
    return "\n".join(described)


def _comment(line: str) -> str:
    """Return the comment at the end of a line of source; empty where there is none."""
    return f"  # {line.split('  # ', 1)[1]}" if "  # " in line else ""


def _option_lines() -> Iterator[str]:
    """Yield each option of the skeleton with its default and its help."""
    for key, declared in walk_options(skeleton()):
        if key in FAMILIES or key == "stages":
            continue
        default = default_of(declared)
        shown = str(default).lower() if isinstance(default, bool) else default
        shown = "null" if default is None else shown
        text = rules_of(declared).help
        yield f"{key} = {shown}{f'  # {text}' if text else ''}"
