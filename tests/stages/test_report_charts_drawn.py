"""The charts as a browser draws them, and their colours as colour-blind readers see them."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.stages.report.chart_classifier import draw_confusion
from pipeline.stages.report.chart_groups import ClassRow, ClassTable
from pipeline.stages.report.chart_parts import as_record
from pipeline.stages.report.chart_training import draw_refine, draw_training
from pipeline.stages.report.rendering import CHART_SCRIPTS, CHART_STYLE

REPORT = Path(__file__).parents[2] / "pipeline/stages/report"
HOSTILE = '<script>fail()</script> "a" אב'

# Linear RGB to what a person without red or green cones sees: Vienot, Brettel and Mollon, 1999.
BLIND = {
    "none": np.eye(3),
    "protan": np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]]),
    "deutan": np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]]),
}


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #rrggbb."""
    values = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                       [0.0193, 0.1192, 0.9505]])  # fmt: skip
    ratio = np.clip(to_xyz @ rgb / [0.9505, 1, 1.089], 0, None)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colours(is_dark: bool) -> dict[str, str]:
    """The variables of the style sheet that are colours."""
    text = (REPORT / CHART_STYLE).read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    found = dict(re.findall(r"--l2b-(\w+): (#\w+);", dark if is_dark else light))
    return {
        name: f"#{''.join(2 * digit for digit in value[1:])}" if len(value) == 4 else value
        for name, value in found.items()
    }


@pytest.mark.parametrize("is_dark", [False, True])
def test_colours_differ_for_colour_blind_readers_and_stand_out(is_dark: bool) -> None:
    named = colours(is_dark)
    series = [linear(named[f"c{n}"]) for n in range(4)]
    for blind, matrix in BLIND.items():
        for a, b in itertools.combinations(series, 2):
            distance = np.linalg.norm(lab(matrix @ a) - lab(matrix @ b))
            assert distance > 10, f"{blind}: {distance:.1f}"
    card = lab(linear(named["card"]))[0]
    luminance = [((lab(colour)[0] + 16) / 116) ** 3 for colour in series]
    of_card = ((card + 16) / 116) ** 3
    for each in luminance:
        low, high = sorted((each, of_card))
        assert (high + 0.05) / (low + 0.05) >= 3, "WCAG: graphics"


def hostile_model() -> dict[str, Any]:
    """Charts of every kind but those that need a run, with names that are HTML."""
    history = [{"epoch": n, "loss": 2 / n, "held_back_top1": n / 10} for n in range(1, 6)]
    refined = {"losses": [0.5, 0.4], "learned_from": 8, "images": 9, "agreement": 0.7}
    few = draw_confusion([0, 1, 1], {0: 0, 1: 0, 2: 1}, [HOSTILE, "b"])
    many = draw_confusion([0, 1, 1], {0: 1, 1: 0, 2: 1}, [HOSTILE, *map(str, range(30))], "b", 1)
    classes = ClassTable(
        key="classes", title="Per class", sentence="Percent.", unit="images", methods=["cam"],
        columns=[HOSTILE],
        rows=[ClassRow(name=f"{HOSTILE} {n}", count=n, values=[[n / 2]]) for n in range(60)],
    )  # fmt: skip
    charts = [
        *draw_training(history, history[-1], 5), *draw_refine(refined, False), classes, few, many,
    ]  # fmt: skip
    return {
        "charts": {
            "methods": ["cam"], "unit": "images", "list": [as_record(each) for each in charts],
            "absent": [{"title": HOSTILE, "why": "it was not measured"}],
        }
    }  # fmt: skip


PRESS = """
  const plot = document.querySelector("#chart-training_loss .l2b-plot");
  const press = (key) => plot.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  press("Home"); press("ArrowRight");
  const read = plot.getAttribute("aria-valuetext");
  const tip = plot.querySelector(".l2b-tip");
  const isSeen = !tip.hidden;
  press("Escape");
  const table = document.querySelector("#chart-classes table");
  table.querySelectorAll("thead button")[1].click();
  const first = table.querySelector("tbody td").textContent;
  const sorted = table.querySelectorAll("thead th")[1].getAttribute("aria-sort");
  const rows = [table.querySelectorAll("tbody tr").length];
  document.querySelector("#chart-classes .l2b-more").click();
  rows.push(table.querySelectorAll("tbody tr").length);
  document.getElementById("said").textContent = JSON.stringify({
    errors, read, isSeen, isHidden: tip.hidden, first, sorted, rows,
    figures: document.querySelectorAll("figure.l2b-chart").length,
    lines: document.querySelectorAll("polyline.l2b-line").length,
    scripts: document.querySelectorAll("figure script").length,
    wide: document.documentElement.scrollWidth - innerWidth,
  });
"""


def page(model: dict[str, Any]) -> str:
    scripts = [(REPORT / name).read_text(encoding="utf-8") for name in CHART_SCRIPTS]
    style = (REPORT / CHART_STYLE).read_text(encoding="utf-8")
    data = json.dumps(model).replace("<", "\\u003c")
    start = f"label2box.drawCharts({data}, document.getElementById('charts'));{PRESS}"
    tags = "".join(f"<script>{text}</script>" for text in (*scripts, start))
    listen = "<script>const errors = []; onerror = (text) => { errors.push(text); };</script>"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>charts</title><style>"
        f"body {{ margin: 0; }} * {{ box-sizing: border-box; }} {style}</style>{listen}"
        f"<main id='charts'></main><pre id='said'></pre>{tags}</html>"
    )


@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_them_reads_and_sorts(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to draw with")
    (tmp_path / "page.html").write_text(page(hostile_model()), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
               f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]  # fmt: skip
    drawn = subprocess.run(
        [browser, *options, (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    match = re.search(r'<pre id="said">(.*?)</pre>', drawn.stdout, re.DOTALL)
    assert match is not None
    said = json.loads(html.unescape(match[1]))
    assert said["errors"] == []
    assert said["read"] == "epoch 2; loss: 1"
    assert said["isSeen"]
    assert said["isHidden"]
    assert said["first"] == "59", "a number begins with the highest"
    assert said["sorted"] == "descending"
    assert said["rows"] == [50, 60]
    assert said["figures"] == len(hostile_model()["charts"]["list"])
    assert said["lines"] == 3, "loss, accuracy, and the loss of the localization head"
    assert said["scripts"] == 0
    assert said["wide"] <= 0, "nothing is wider than the page"
