"""A metric in a folder of the user is computed, shown and compared without an edit of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY, Cli
from tests.outside import add_choice

pytestmark = pytest.mark.usefixtures("shared_results")

RUN = ("+experiment=cam", *TINY, "segmenter.threshold=0.5")

WIDTH = '''
"""Width of the best box, in pixels."""

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.bootstrap import first
from pipeline.types import MetricNumber, PairedRows


class BoxWidth(MetricBase):
    numbers = (
        MetricNumber(
            name="box_width", title="width of the best box", unit="pixels", is_headline=True
        ),
    )
    needs = frozenset({"boxes"})
    row_names = ("widths",)

    def __init__(self, least: float = 0.0, threshold=None) -> None:
        self.least = least
        self.threshold = threshold
        self.widths: list[float] = []

    def with_settings(self, settings):
        return BoxWidth(self.least, settings.threshold)

    def update(self, evidence):
        box = evidence.boxes[0] if len(evidence.boxes) else np.zeros(4)
        self.widths.append(max(self.least, float(box[2] - box[0])))

    def compute(self, select=None, label=None):
        widths = chosen(np.array(self.widths), select)
        return mean_score("box_width", widths, threshold=self.threshold, label=label)

    def rows(self):
        return {"widths": np.array(self.widths)}

    def pairs(self, rows):
        yield PairedRows("box_width", rows["widths"], first)
'''


@pytest.fixture
def box_width(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The metric, with an option of its own."""
    (tmp_path / "mine").mkdir()
    settings = "_target_: outside_box_width.BoxWidth\nleast: 3.0\n"
    add_choice(monkeypatch, tmp_path / "mine", "metric", "box_width", WIDTH, settings)


def records(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    return [record for record in found if "box_width" in record["name"]]


@pytest.mark.usefixtures("box_width")
def test_it_appears_in_scores_table_comparison_and_report(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.methods=[cam,cam_positive]") == 0
    latest = tmp_path / "outputs/latest"
    images = json.loads((latest / "stages/evaluate/images.json").read_text())
    widths = [box[2] - box[0] for one in images for box in one["found"][:1]]
    overall = [record for record in records(tmp_path) if record["class"] is None]
    assert [record["method"] for record in overall] == ["cam", "cam_positive"]
    assert overall[0]["value"] == pytest.approx(np.mean(widths), abs=0.01)
    assert overall[0]["n"] == 24
    assert overall[0]["value"] > 1, "its unit is pixels"
    assert {record["group"] for record in records(tmp_path)} == {None, "class", "size", "number"}

    table = (latest / "stages/evaluate/table.txt").read_text()
    assert "width of the best box, pixels (fixed 0.5)" in table
    assert f"{overall[0]['value']:.3g}" in table

    (comparison,) = json.loads((latest / "comparison.json").read_text())
    (difference,) = (one for one in comparison["differences"]
                     if one["record"]["name"] == "difference:box_width")  # fmt: skip
    by_method = {record["method"]: record["value"] for record in overall}
    expected = by_method[comparison["b"]] - by_method[comparison["a"]]
    assert difference["record"]["value"] == pytest.approx(expected)
    assert difference["sentence"] in comparison["sentences"]
    assert "pixels in width of the best box" in difference["sentence"]

    page = (latest / "report/index.html").read_text()
    assert "width of the best box, pixels" in page
    assert difference["sentence"] in page


@pytest.mark.usefixtures("box_width")
def test_it_scores_what_others_made(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40]}
    whole = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 100}],
        "annotations": [{"id": 1, **box}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(whole))
    (tmp_path / "boxes.json").write_text(json.dumps([{**box, "score": 0.5}]))
    evaluate = ("+experiment=evaluate", "boxes=boxes.json", "annotations=instances.json")
    assert cli(*evaluate) == 0
    assert records(tmp_path)[0]["value"] == 40
    assert "width of the best box, pixels" in capsys.readouterr().out
    assert cli(*evaluate, "against=boxes.json") == 0
    assert [r["value"] for r in records(tmp_path) if "difference" in r["name"]] == [0]


def refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli(*RUN) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('needs = frozenset({"boxes"})', 'needs = frozenset({"boxs"})', "the kind 'boxs'"),
        ('mean_score("box_width"', 'mean_score("box_breadth"', "box_breadth computed"),
        ('name="box_width", title', 'name="mean_iou", title', "describes it differently"),
        ('"widths"', '"iou"', "another metric keeps rows named iou"),
    ],
)
def test_a_wrong_one_is_refused(
    before: str, after: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    cli: Cli, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "mine").mkdir()
    name = f"wrong_{sum(map(ord, before + after))}"  # a module is imported once
    settings = f"_target_: outside_{name}.BoxWidth\n"
    source = WIDTH.replace(before, after)
    assert source != WIDTH
    add_choice(monkeypatch, tmp_path / "mine", "metric", name, source, settings)
    assert message in refused(cli, capsys)


def test_what_is_no_metric_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    source = WIDTH.replace('{"boxes"}', "()")
    settings = "_target_: outside_needless.BoxWidth\n"
    add_choice(monkeypatch, tmp_path / "mine", "metric", "needless", source, settings)
    assert "metric needless: it needs no evidence; kinds: classification" in refused(cli, capsys)
    assert not (tmp_path / "outputs").exists()
