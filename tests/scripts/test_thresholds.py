"""Thresholds against the oracle: intervals over photographs, draws of boxes, and a small run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.unannotated import with_annotations
from pipeline.errors import UserError
from pipeline.metric.components import THRESHOLDS, threshold_index
from scripts.measure import confidences, thresholds
from scripts.measure.__main__ import main
from scripts.measure.runs import compose
from scripts.measure.threshold_maps import (
    Half,
    MeasuredMaps,
    fixed_threshold,
    measure_maps,
)
from scripts.measure.threshold_scores import (
    BOXES,
    Comparison,
    PhotographSampler,
    calibrated_ious,
    draw_validation,
    score,
)
from scripts.measure.thresholds import Options, Recipe

KINDS = ("used", "fixed 0.2", "auto", *(f"validation {count}" for count in BOXES), "oracle",
         "centre box", "whole image")  # fmt: skip


def maps(count: int, crops: int = 1, seed: int = 0, prefix: str = "photograph") -> MeasuredMaps:
    """Maps of which each is correct around a threshold of its own, with equal crops."""
    rng = np.random.default_rng(seed)
    best = np.repeat(rng.uniform(0.1, 0.8, count), crops)[:, None]
    curve = np.clip(0.9 - 2 * np.abs(THRESHOLDS - best), 0, 1)
    names = np.repeat([f"{prefix} {n}" for n in range(count)], crops)
    centred = np.repeat(rng.uniform(0, 1, (count, 20)), crops, 0)
    shares = np.repeat(rng.uniform(0, 1, count), crops)
    ids = [f"{name}#{n}" for n, name in enumerate(names)]
    auto_at = np.full(len(ids), 0.4)
    return MeasuredMaps(
        ids, names, shares, curve, curve[:, 300], curve[:, 400], auto_at, centred, 0.2
    )


def half(measured: MeasuredMaps, boxed: MeasuredMaps | None = None) -> Half:
    return Half(measured, boxed or measured, maps(50, seed=1).centred)


def test_resamples_take_all_crops_of_a_photograph() -> None:
    sources = np.array(["b", "a", "b", "c"])
    rows = np.array([[1.0, 0], [0, 3], [5, 0], [2, 2]])
    sampler = PhotographSampler(sources, samples=50)
    assert sampler.weights.shape == (50, 3)
    assert (sampler.weights.sum(1) == 3).all()
    images = {"a": [1], "b": [0, 2], "c": [3]}
    for weights, mean in zip(sampler.weights, sampler.means(rows), strict=True):
        drawn = [
            n for name, times in zip("abc", weights, strict=True) for n in images[name] * times
        ]
        assert mean == pytest.approx(rows[drawn].mean(0))


def test_standard_error_with_photographs_as_clusters() -> None:
    values = np.array([1.0, 0, 0, 1, 1, -1])
    alone = PhotographSampler(np.arange(6).astype(str))
    assert alone.standard_error(values) == pytest.approx(values.std(ddof=1) / 6**0.5)
    pairs = PhotographSampler(np.array(["a", "a", "b", "b", "c", "c"]))
    # The sums of the pairs are 1, 1, 0; less two means of 1/3 each: 1/3, 1/3, -2/3.
    assert pairs.standard_error(values) == pytest.approx((3 / 2 * 6 / 9) ** 0.5 / 6)


@pytest.fixture
def few_draws(monkeypatch) -> None:
    """Choose validation thresholds on few draws of boxes: most of the time goes into them."""
    monkeypatch.setattr("scripts.measure.threshold_scores.DRAWS", 10)


@pytest.mark.usefixtures("few_draws")
def test_equal_crops_give_the_interval_of_their_photographs() -> None:
    """Resampled image by image it would be narrower."""
    once, twice = maps(80), maps(80, crops=2)
    scores, of_crops = score([half(once)]), score([half(twice)])
    for iou in (0.3, 0.5, 0.7):
        for kind in ("used", "fixed 0.2", "auto", "centre box"):
            a, b = scores[iou].of[kind], of_crops[iou].of[kind]
            assert b.accuracy == pytest.approx(a.accuracy)
            assert b.interval == pytest.approx(a.interval)
        single, double = (found[iou].against_centre["auto"] for found in (scores, of_crops))
        assert double.difference == pytest.approx(single.difference)
        assert double.error == pytest.approx(single.error)
    alone = replace(twice, sources=np.array(twice.ids))
    low, high = score([half(alone)])[0.5].of["fixed 0.2"].interval
    whole = scores[0.5].of["fixed 0.2"].interval
    assert high - low < 0.85 * (whole[1] - whole[0])


@pytest.mark.usefixtures("few_draws")
def test_the_oracle_is_chosen_anew_in_each_resample() -> None:
    measured = maps(60)
    scores = score([half(measured)])[0.5]
    sampler = PhotographSampler(measured.sources)
    correct = measured.curve >= 0.5
    differences = []
    for weights in sampler.weights:
        order = {name: n for n, name in enumerate(sorted(set(measured.sources)))}
        drawn = np.repeat(np.arange(60), [weights[order[name]] for name in measured.sources])
        fixed = correct[drawn, threshold_index(0.2)].mean()
        differences.append(fixed - correct[drawn].mean(0).max())
    assert scores.of["fixed 0.2"].interval == pytest.approx(
        tuple(np.quantile(differences, [0.025, 0.975]))
    )
    oracle = scores.of["oracle"]
    assert oracle.accuracy == correct.mean(0).max()
    assert oracle.accuracy == correct[:, threshold_index(scores.oracle_at[0])].mean()


@pytest.mark.usefixtures("few_draws")
def test_sizes_are_parts_of_all_images() -> None:
    measured = maps(200)
    result = score([half(measured)])[0.5].of["auto"]
    counts = [((measured.shares * 4).astype(int) == n).sum() for n in range(4)]
    assert np.dot(list(result.by_size.values()), counts) / 200 == pytest.approx(result.accuracy)


@pytest.mark.usefixtures("few_draws")
def test_of_several_seeds_the_mean_is_given() -> None:
    first, second = maps(60), replace(maps(60, seed=3), sources=maps(60).sources)
    both = score([half(first), half(second)])[0.5]
    alone = [score([half(measured)])[0.5] for measured in (first, second)]
    assert "validation 10" in both.of
    for kind in both.of:
        assert both.of[kind].difference == pytest.approx(
            np.mean([scores.of[kind].difference for scores in alone])
        )
    assert both.oracle_at == [scores.oracle_at[0] for scores in alone]


@pytest.mark.usefixtures("few_draws")
def test_centre_box_has_the_size_that_is_best_for_the_other_half() -> None:
    measured, other = maps(40), np.zeros((10, 20))
    other[:, 7] = 0.6
    scores = score([Half(measured, measured, other)])[0.5].of
    assert scores["centre box"].accuracy == (measured.centred[:, 7] >= 0.5).mean()
    assert scores["whole image"].accuracy == (measured.centred[:, -1] >= 0.5).mean()


def test_not_below_the_centre_box_by_more_than_two_standard_errors() -> None:
    assert Comparison(-0.019, 0.01).holds
    assert not Comparison(-0.021, 0.01).holds


def test_boxes_of_another_half_serve_all_images() -> None:
    scored, boxed = maps(30), maps(60, seed=2, prefix="other")
    rows = draw_validation(scored, boxed, 50)
    assert rows is not None
    assert rows[0.5].shape == (30,)
    assert rows[0.3].mean() >= rows[0.5].mean() >= rows[0.7].mean() > 0.1
    assert draw_validation(scored, maps(20), 50) is None


def test_photographs_are_not_scored_at_thresholds_chosen_on_them(monkeypatch) -> None:
    """Not on any of their crops: those drawn are right, all others wrong."""
    measured, calls = maps(60, crops=2), []

    def reach(scored, boxed, drawn):
        calls.append(drawn)
        seen = np.isin(scored.sources, boxed.sources[drawn])
        return {iou: seen.astype(float) for iou in (0.3, 0.5, 0.7)}

    monkeypatch.setattr("scripts.measure.threshold_scores.calibrated_ious", reach)
    rows = draw_validation(measured, measured, 20)
    assert len(calls) == 30
    assert all(len(set(drawn)) == 20 for drawn in calls)
    assert rows is not None
    assert not rows[0.5].any()


def test_a_half_with_too_few_photographs_has_no_row() -> None:
    small = maps(12)
    assert draw_validation(small, small, 20) is None
    assert draw_validation(small, small, 12) is None


def test_validation_thresholds_are_those_of_stage_calibrate() -> None:
    measured = maps(200)
    reached = calibrated_ious(measured, measured, np.arange(200))
    best = (measured.curve >= 0.5).mean(0).max()
    assert (reached[0.5] >= 0.5).mean() == pytest.approx(best, abs=0.1)


def test_thresholds_are_found_on_the_grid() -> None:
    assert [threshold_index(at) for at in (0, 0.2, 0.2001, 0.45, 1)] == [0, 200, 201, 450, 999]


def test_arguments() -> None:
    options = Options.parse(["sets=shapes", "precision=bf16"])
    assert [recipe.name for recipe in options.recipes] == ["best", "cam"]
    assert options.overrides == ["precision=bf16"]
    assert not options.is_held_out
    options = Options.parse(["experiment=best", "saliency=cam,ddt", "half=held_out", "seeds=0,1"])
    assert [recipe.name for recipe in options.recipes] == ["best", "cam", "ddt"]
    assert options.recipes[2] == Recipe("ddt", "cam", ("saliency=ddt",))
    assert (options.is_held_out, options.seeds, len(options.sets)) == (True, [0, 1], 3)
    with pytest.raises(UserError, match="half=test: expected develop, held_out"):
        Options.parse(["half=test"])
    with pytest.raises(UserError, match="sets=cub: expected cub30"):
        Options.parse(["sets=cub,shapes"])


def test_what_is_not_known_is_refused_with_a_message(capsys) -> None:
    assert main("accuracy", "thresholds", "half=all") == 2
    assert capsys.readouterr().err == "thresholds: half=all: expected develop, held_out\n"


def test_fixed_threshold_of_a_localization_head() -> None:
    at = compose("best", "data=shapes").segmenter().threshold_info["value"]
    assert fixed_threshold(compose("best", "data=shapes")) == (0.2 if at is None else at)
    assert fixed_threshold(compose("cam", "data=shapes")) == 0.2


SMALL = ("sets=shapes", "saliency=cam", "data.images=200", "data.val_images=240", "train.epochs=1")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.usefixtures("few_draws")
def test_a_small_run_has_all_rows_and_a_second_call_trains_nothing(outputs, capsys) -> None:
    develop = thresholds.run(*SMALL, f"outputs={outputs}")
    first = capsys.readouterr().out
    assert "looked at" not in first
    stages = {path: path.stat().st_mtime_ns for path in outputs.glob("*/*/cache_key.json")}
    held_out = thresholds.run(*SMALL, f"outputs={outputs}", "half=held_out")
    second = capsys.readouterr().out
    assert "The held-out half of shapes was looked at" in second
    assert {path: path.stat().st_mtime_ns for path in outputs.glob("*/*/cache_key.json")} == stages
    for text, records in ((first, develop), (second, held_out)):
        names = {record.name for record in records}
        for block in ("shapes/cam", "shapes-mixed/cam"):
            assert f"\n{block}: n=" in f"\n{text}"
            for kind in KINDS:
                assert {f"{block}:{kind}@{iou}" for iou in (0.3, 0.5, 0.7)} <= names
                assert f"\n{kind} " in text
            assert f"{block}:auto - centre box@0.5" in names
            assert f"{block}:auto@0.5, share 0.25 to 0.5" in names
        assert all(0 <= record.ours <= 1 for record in records)
    at_half = [record.ours for record in develop if record.name == "shapes/cam:auto@0.5"]
    assert at_half == [record.ours for record in develop if record.name == "shapes/cam:used@0.5"]
    photographs = [re.findall(r"n=(\d+) of \1 photographs", text) for text in (first, second)]
    assert sum(int(numbers[0]) for numbers in photographs) == 240


def test_numbers_are_those_of_stage_evaluate(outputs) -> None:
    made = compose("cam", "data=shapes", *SMALL[2:], f"outputs={outputs}", "seed=0")
    measured = measure_maps(made, with_annotations(made.data).truth("val"), lambda id: True)
    assert len(measured) == 240
    for stage in ("calibrate", "rank", "evaluate"):
        folder, _ = made.get_or_create(stage)
    found = {
        (record["name"], record["iou"], (record["threshold"] or {}).get("kind")): record["value"]
        for record in json.loads((folder / "metrics.json").read_text())
        if record["class"] is None
    }
    for iou in (0.3, 0.5, 0.7):
        assert found["gt_known_loc", iou, "auto"] == pytest.approx((measured.used >= iou).mean())
        assert found["gt_known_loc", iou, "auto"] == pytest.approx((measured.auto >= iou).mean())
        fixed = (measured.at(0.2) >= iou).mean()
        assert found["gt_known_loc", iou, "fixed"] == pytest.approx(fixed)
        oracle = (measured.curve >= iou).mean(0).max()
        assert found["gt_known_loc", iou, "oracle"] == pytest.approx(oracle)
        whole = (measured.centred[:, -1] >= iou).mean()
        assert found["full_image_loc", iou, None] == pytest.approx(whole)
        centre = (measured.centred >= iou).mean(0).max()
        assert found["centre_box_loc", iou, "oracle"] == pytest.approx(centre)


def test_confidences_of_the_same_run(outputs, capsys) -> None:
    found = confidences.run(*SMALL, f"outputs={outputs}", "half=all")
    text, names = capsys.readouterr().out, {record.name for record in found}
    assert "\nshapes/cam: n=240, all, seed 0\n" in f"\n{text}"
    for block in ("shapes/cam", "shapes-mixed/cam"):
        assert {f"{block}:AUC, default", f"{block}:error, 50 boxes"} <= names
    right = next(record.ours for record in found if record.name == "shapes/cam:right")
    made = compose("cam", "data=shapes", *SMALL[2:], f"outputs={outputs}", "seed=0")
    measured = measure_maps(made, with_annotations(made.data).truth("val"), lambda id: True)
    assert right == (measured.used >= 0.5).mean()
