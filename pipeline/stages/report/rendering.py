"""The page as one file: template, style sheet and scripts, with the view model as JSON inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.stages.report.words import to_sentence

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent
TEMPLATES = ("page.html", "macros.html")
CHART_STYLE = "charts.css"
STYLES = ("page.css", CHART_STYLE, "marks.css")
CHART_SCRIPTS = ("chart_parts.js", "chart_tables.js", "charts.js")  # which stand without the others
SCRIPTS = (
    "shared.js",
    "threshold.js",
    *CHART_SCRIPTS,
    "panel.js",
    "cards.js",
    "cause_list.js",
    "marks.js",
    "gallery.js",
    "large_view.js",
    "start.js",
)  # in the order in which they run
FILES = tuple(FOLDER / name for name in (*TEMPLATES, *STYLES, *SCRIPTS))
OPACITY_LOW, OPACITY_HIGH, OPACITY_POWER = 0.05, 0.8, 0.7  # of a map over its image

# What HTML, or a script, would end at or break at.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render(model: Mapping[str, Any]) -> str:
    """Return the page of a view model: HTML that loads nothing.

    Args:
        model: the view model; what a file name or a class name holds is shown as text.
    """
    scripts = read_files(SCRIPTS)
    page: str = (
        _environment()
        .get_template(TEMPLATES[0])
        .render(
            model=model,
            causes=count_causes(model),
            policy=content_policy(scripts),
            style="\n".join(read_files(STYLES)),
            scripts=scripts,
            data=to_json(model),
            drawing=to_json(describe_drawing()),
        )
    )
    return page


@cache
def _environment() -> jinja2.Environment:
    """Return what compiles the templates; it keeps them, until their files change."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sentence"] = to_sentence
    return environment


def count_causes(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the causes of wrong boxes, each with its sum over the methods."""
    return [{**cause, "number": sum(cause["count"].values())} for cause in model["causes"] or ()]


def read_files(names: Sequence[str]) -> list[str]:
    """Return the texts of the files that lie beside this one."""
    return [(FOLDER / name).read_text(encoding="utf-8") for name in names]


def content_policy(scripts: Sequence[str]) -> str:
    """Return the policy that the browser keeps to: these scripts and pictures, and nothing else.

    A script that a file name or a class name would bring into the page does not run, and the page
    connects to nothing: only a copy that is served may, to its server (served_page.py).
    """
    allowed = " ".join(hash_script(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; "
        "style-src 'unsafe-inline'; img-src 'self' data: blob: file:; base-uri 'none'"
    )


def hash_script(script: str) -> str:
    """Return what a content policy allows a script by."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def to_json(value: Any) -> str:
    r"""Return a value as JSON that can stand in a script element.

    >>> to_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def describe_drawing() -> dict[str, Any]:
    """Return the colours of maps, 256 times red, green, blue and opacity, and those of boxes."""
    from pipeline.plotting.boxes import PALETTE
    from pipeline.plotting.colours import apply_turbo

    levels = np.linspace(0, 1, 256, dtype=np.float32)
    opacity = OPACITY_LOW + (OPACITY_HIGH - OPACITY_LOW) * levels**OPACITY_POWER
    colours = np.concatenate(
        [apply_turbo(levels[None])[0], np.rint(255 * opacity).astype(np.uint8)[:, None]], 1
    )
    return {
        "colours": base64.b64encode(np.ascontiguousarray(colours).tobytes()).decode("ascii"),
        "palette": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE],
    }
