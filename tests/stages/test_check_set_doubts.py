"""Labels that a pretrained network doubts where an image may have several."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.table import Table
from pipeline.stages.check import doubts
from pipeline.stages.check.set_doubts import (
    describe_exclusive,
    describe_independent,
    list_set_doubts,
)
from tests.conftest import Cli
from tests.stages.test_check import by_kind, read_check
from tests.stages.test_several_labels import net_source, table

assert table, "a fixture of this file, too"
NET = net_source(60, 0.6, "amax")
OF_NET = ("model=module", "model.of=mynet.py:Net", "model.size=48",
          "model.classes=[blue,green,red]", "model.mean=[0,0,0]", "model.std=[1,1,1]")  # fmt: skip


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def test_exclusive_classes_by_the_definition() -> None:
    rng = np.random.default_rng(0)
    sets, logits = rng.random((40, 4)) < 0.4, rng.normal(0, 3, (40, 4)).astype(np.float32)
    found = list_set_doubts(describe_exclusive(np.arange(40) + 7, sets, logits))
    expected = dict[tuple[int, int], tuple[Any, Any, Any]]()
    for n in range(40):
        absent = np.flatnonzero(~sets[n])
        for label in np.flatnonzero(sets[n]).tolist() if len(absent) else ():
            shares = softmax(logits[n, [label, *absent]])
            if shares[1:].max() > shares[0]:
                best = absent[shares[1:].argmax()]
                expected[n + 7, label] = (shares[0], best, shares[1:].max())
    assert {(doubt.number, doubt.label) for doubt in found} == expected.keys()
    assert 10 < len(found) < sets.sum()
    for doubt in found:
        own, other, of_other = expected[doubt.number, doubt.label]
        assert doubt.is_labelled
        assert doubt.other == other
        assert doubt.probability == pytest.approx(own, rel=1e-5)
        assert doubt.strength == pytest.approx(of_other - own, rel=1e-5, abs=1e-6)


def test_one_label_an_image_is_doubted_as_where_there_is_only_one() -> None:
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, 3, 30), rng.normal(0, 2, (30, 3)).astype(np.float32)
    found = describe_exclusive(np.arange(30), np.eye(3, dtype=bool)[labels], logits)
    probabilities = np.stack([softmax(row) for row in logits])
    single = doubts._describe_batch(np.arange(30), labels, probabilities)
    kept = single["probability"] > single["of_label"]
    assert found["image"].tolist() == single["image"][kept].tolist()
    assert found["other"].tolist() == single["predicted"][kept].tolist()
    np.testing.assert_allclose(found["probability"], single["of_label"][kept], rtol=1e-5)
    np.testing.assert_allclose(found["other_probability"], single["probability"][kept], rtol=1e-5)


def test_independent_classes_are_questions_of_their_own() -> None:
    sets = np.array([[True, False, True], [False, False, True]])
    probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.5, 0.5]])
    found = list_set_doubts(describe_independent(np.array([3, 4]), sets, probabilities))
    assert [(d.number, d.label, d.is_labelled) for d in found] == [(3, 1, False), (3, 2, True)]
    assert [doubt.strength for doubt in found] == pytest.approx([0.6, 0.8])
    assert not list_set_doubts(describe_independent(np.array([4]), sets[1:], probabilities[1:]))
    assert not list_set_doubts(describe_exclusive(np.array([4]), np.ones((1, 3), bool), np.eye(3)))


def test_planted_labels_are_found(cli: Cli, table: Table, tmp_path: Path) -> None:
    """A network that answers by colour finds a label that is wrong, and one that is missing."""
    (tmp_path / "mynet.py").write_text(NET)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    of_image = [line for line in lines if line.startswith("2.png,")]
    assert len(of_image) == 3, "it shows all three colours"
    lines.remove(of_image[0])
    missing = of_image[0].split(",")[1]
    shown = {line.split(",")[1] for line in lines if line.startswith("3.png,")}
    (right,) = shown
    wrong = sorted({"blue", "green", "red"} - shown)[0]
    lines.append(f"3.png,{wrong},train,1,1,9,9")
    shutil.copyfile(tmp_path / "3.png", tmp_path / "none.png")
    lines.append("none.png,[],train,,,,")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    command = ("+experiment=check", "data=table", "data.table=labels.csv", "data.several=keep",
               "data.size=48", "check.doubt=true", "check.duplicates=false")  # fmt: skip
    assert cli(*command, *OF_NET, "model.multi_label=true") == 0
    summary = read_check(tmp_path)
    findings = by_kind(summary)
    assert [*findings["doubt"]["names"]] == [f"3.png ({wrong} 0.00, its label)"]
    assert sorted(findings["doubt_missing"]["names"]) == [
        f"2.png ({missing} 1.00, without this label)",
        f"none.png ({right} 1.00, without this label)",
    ]
    assert {(d["id"], d["class"], d["labelled"]) for d in summary["doubted"]} == {
        ("3.png", wrong, True), ("2.png", missing, False), ("none.png", right, False)
    }  # fmt: skip
    page = (summary["run"] / "check/index.html").read_text(encoding="utf-8")
    assert f"{missing} 1.00, without this label" in page

    # Classes that exclude each other: a label against those that the image does not have.
    assert cli(*command, *OF_NET) == 0
    summary = read_check(tmp_path)
    (doubted,) = [doubt for doubt in summary["doubted"] if doubt["id"] == "3.png"]
    assert doubted["class"] == wrong
    assert doubted["probability"] > doubted["probability_of_label"]
    assert "doubt_missing" not in by_kind(summary)
