"""The text of `--help`: experiments, families, their choices, and all options with their defaults.

It is read from YAML, from the options that stages declare, and from source as text, so that
`--help` imports no heavy library.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from pipeline.engine.choices import choice_files, list_choices, read_choice
from pipeline.engine.config import FAMILIES, RUNNER, skeleton
from pipeline.engine.options import default_of, rules_of, walk_options
from pipeline.engine.sources import find_source
from pipeline.engine.stage import list_stages
from pipeline.types import EvaluationSettings

EVALUATION_SETTINGS = {field.name for field in fields(EvaluationSettings)}
"""Arguments of metrics that stage evaluate settles."""

HEAD = """label2box: image labels in, boxes out

  python -m pipeline +experiment=cam                        the main job, on the embedded data set
  python -m pipeline +experiment=cam data=folder data.root=FOLDER model=mobilenet_v2
  python -m pipeline -m +experiment=cam segmenter.threshold=0.15,0.2,0.3          a sweep
  python -m pipeline +experiment=explain images=photo.jpg   maps of a pretrained network as pictures
  python -m pipeline +experiment=cam --cfg job              show the configuration, run nothing
  python -m pipeline serve outputs/latest                   the report, where marks are saved
  python -m pipeline clean                                  what takes room, and what can go
  python -m pipeline --version                              of label2box and its libraries

key=value sets an option, group=choice makes a choice; the README has the whole story."""


def help_text() -> str:
    """Return what `--help` prints."""
    parts = [HEAD, "\nExperiments (+experiment=NAME)"]
    parts += [
        f"  {name:<14} {_first_comment(path)}" for name, path in choice_files("experiment").items()
    ]
    for family in (*FAMILIES, RUNNER):
        parts.append(f"\n{family}=CHOICE, then {family}.OPTION=VALUE")
        parts += _choice_lines(family, f"{family}.")
    for family, key in _listed_families():
        stage = key.partition(".")[0]
        parts.append(
            f"\n{key}=[CHOICE,...]; arguments stand in {family}/CHOICE.yaml, or come from the "
            f"{stage}.OPTION of the same name"
        )
        parts += _choice_lines(family, "")
    parts.append("\nMetrics: all are computed that the images, maps and boxes are enough for")
    parts += _choice_lines("metric", "")
    stages = ",".join(list_stages())
    parts.append(f"\nstages=[{stages}]: those to run; the results of others are reused")
    parts.append("\nOptions of stages, runtime and the rest")
    parts += [f"  {line}" for line in _option_lines()]
    return "\n".join(parts)


def _listed_families() -> Iterator[tuple[str, str]]:
    """Yield each family whose choices an option of a stage lists, with the key of that option."""
    for key, declared in walk_options(skeleton()):
        family = rules_of(declared).group
        if family is not None and family not in (*FAMILIES, RUNNER, "stage"):
            yield family, key


def _choice_lines(family: str, prefix: str) -> Iterator[str]:
    """Yield the choices of a family; those with the same options share a line, options below."""
    by_signature: dict[str, list[str]] = {}
    for name in list_choices(family):
        by_signature.setdefault(_signature(family, name, prefix), []).append(name)
    for signature, names in by_signature.items():
        yield f"  {', '.join(names)}"
        yield from (f"      {line}" for line in signature.split("\n") if line)


def _first_comment(path: Path) -> str:
    """Return the text of the first comment of a YAML file; empty where there is none."""
    lines = path.read_text(encoding="utf-8").split("\n")
    comments = (
        line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line
    )
    return next(comments, "")


def _signature(family: str, name: str, prefix: str) -> str:
    """Return the options of a choice with their annotations and defaults, a line each.

    They are the fields of a dataclass or the arguments of `__init__`. `prefix` stands before each.
    """
    node = read_choice(family, name)
    module, _, wanted = str(node.get("_target_")).rpartition(".")
    source = find_source(module)
    if source is None or source.suffix != ".py":
        return ""
    text = source.read_text(encoding="utf-8")
    lines = text.split("\n")
    classes = {c.name: c for c in ast.parse(text).body if isinstance(c, ast.ClassDef)}
    if wanted not in classes:
        return ""
    described = [
        f"{prefix}{option}: {annotation} {default}{_comment(lines[end - 1])}"
        for option, annotation, default, end in _list_arguments(classes[wanted])
        if option not in node  # else the choice settles it
        and not (family == "metric" and option in EVALUATION_SETTINGS)
    ]
    return "\n".join(described)


def _list_arguments(definition: ast.ClassDef) -> Iterator[tuple[str, str, str, int]]:
    """Yield name, annotation, default and last line of each argument that a class takes."""
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            given, named = statement.args.args[1:], statement.args.kwonlyargs
            defaults = [None] * (len(given) - len(statement.args.defaults))
            values = [*defaults, *statement.args.defaults, *statement.args.kw_defaults]
            for argument, value in zip([*given, *named], values, strict=True):
                yield _describe_argument(argument.arg, argument.annotation, value)
            return
    for statement in definition.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if "ClassVar" not in ast.unparse(statement.annotation):
            yield _describe_argument(statement.target.id, statement.annotation, statement.value)


def _describe_argument(
    name: str, annotation: ast.expr | None, default: ast.expr | None
) -> tuple[str, str, str, int]:
    """Return name, annotation, default and last line of an argument."""
    last = default or annotation
    return (
        name,
        "Any" if annotation is None else ast.unparse(annotation),
        "(must be given)" if default is None else f"= {ast.unparse(default)}",
        1 if last is None else last.end_lineno or last.lineno,
    )


def _comment(line: str) -> str:
    """Return the comment at the end of a line of source; empty where there is none."""
    return f"  # {line.split('  # ', 1)[1]}" if "  # " in line else ""


def _option_lines() -> Iterator[str]:
    """Yield each option of the skeleton with its default and its help."""
    for key, declared in walk_options(skeleton()):
        if key in (*FAMILIES, RUNNER) or key == "stages":
            continue
        default = default_of(declared)
        shown = str(default).lower() if isinstance(default, bool) else default
        shown = "null" if default is None else shown
        text = rules_of(declared).help
        yield f"{key} = {shown}{f'  # {text}' if text else ''}"
