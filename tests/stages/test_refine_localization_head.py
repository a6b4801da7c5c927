"""The localization head: what it learns, and that it knows whether it can be used alone."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import saved_state
from pipeline.engine.compute import Compute
from pipeline.formats.arrays import write_arrays
from pipeline.stages.refine import localization_head
from pipeline.stages.refine.config import RefineOptions
from pipeline.stages.refine.extent import compute_loss, find_mask_boxes
from pipeline.stages.refine.localization_head import FittedHead, HeadFitter
from pipeline.stages.refine.pseudo_labels import PseudoLabels
from pipeline.stages.refine.stage import describe_unused_extent

OPTIONS: dict[str, Any] = {"width": 8, "lr": 0.01, "steps": 30, "batch": 16, "map_share": None}
COMPUTE = Compute(torch.device("cpu"), "float32", workers=0, batch=32, shard=256)


def fit(labels: PseudoLabels, **options: Any) -> FittedHead:
    fitter = HeadFitter(
        labels=labels,
        layers=(("last", 6),),
        options=RefineOptions(**{**OPTIONS, **options}),
        compute=COMPUTE,
        seed=0,
    )
    return fitter.fit()


def pseudo_labels(
    folder: Path, rule: bool, count: int = 60, crops_follow: bool = True
) -> PseudoLabels:
    """Features in which a square stands out, and masks of it; or of another place.

    Crops are twice as large as images; their masks are the crop's, or the opposite of it.
    """
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (count, 6, 14, 14)).astype(np.float16)
    mask = np.zeros((count, 28, 28), np.float16)
    for n in range(count):
        y, x = random.integers(0, 7, 2)
        features[n, 2, y : y + 7, x : x + 7] += 5
        if not rule:
            y, x = random.integers(0, 7, 2)
        mask[n, 2 * y : 2 * y + 14, 2 * x : 2 * x + 14] = 1
    cropped = features[:, :, 2:9, 2:9].repeat(2, 2).repeat(2, 3)
    cropped_mask = mask[:, 4:18, 4:18].repeat(2, 1).repeat(2, 2)
    cropped_mask = cropped_mask if crops_follow else 1 - cropped_mask
    for number, part in enumerate(np.array_split(np.arange(count), 3)):
        write_arrays(
            folder / f"shard-{number:06d}.safetensors",
            {"plain0": features[part], "mirrored0": features[part][..., ::-1],
             "cropped0": cropped[part], "cropped_mask": cropped_mask[part],
             "map": mask[part] / 2, "mask": mask[part], "sure": part % 4 != 3,
             "image": part + 100, "window": np.array([[0, 0, 0.5, 1]] * len(part), np.float32)},
        )  # fmt: skip
    return PseudoLabels.read([folder], 1)


@pytest.mark.parametrize("step", [7, 20, 50])
def test_a_killed_training_goes_on_to_the_same_head(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first head, in that with crops, and in the last."""
    fitter = HeadFitter(
        labels=pseudo_labels(tmp_path / "labels", rule=True), layers=(("last", 6),),
        options=RefineOptions(**OPTIONS), compute=COMPUTE, seed=0, folder=tmp_path,
    )  # fmt: skip
    whole = fitter.fit()
    fitter.remove_states()
    assert not list(tmp_path.glob("*.pt"))
    monkeypatch.setattr(saved_state, "SAVE_SECONDS", -1.0)  # a state after each step
    monkeypatch.setattr(saved_state, "SAVE_SHARE", 1e9)
    take = HeadFitter._take_step
    steps: list[int] = []

    def counted(*arguments: Any) -> float:
        if len(steps) == step:
            raise KeyboardInterrupt
        steps.append(len(steps))
        return take(*arguments)

    monkeypatch.setattr(HeadFitter, "_take_step", counted)
    with pytest.raises(KeyboardInterrupt):
        fitter.fit()
    step = -1
    again = fitter.fit()
    assert len(steps) == 15 + 15 + 30, "no step is taken twice"
    assert again.losses == whole.losses
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], tensor)


def test_masks_that_follow_a_rule_are_learned_and_it_stands_alone(tmp_path: Path) -> None:
    labels = pseudo_labels(tmp_path, rule=True)
    assert (labels.image_count, len(labels)) == (60, 45)
    learned = fit(labels)
    assert learned.agreement is not None
    assert learned.agreement > localization_head.MIN_AGREEMENT
    assert learned.head.alone
    assert learned.share == 0
    assert learned.count == pytest.approx(0.7 * len(labels), abs=2)
    assert learned.losses[-1] < learned.losses[0]


def test_masks_of_chance_are_not_and_the_teacher_has_its_say(tmp_path: Path) -> None:
    learned = fit(pseudo_labels(tmp_path, rule=False))
    assert learned.agreement is not None
    assert learned.agreement < localization_head.MIN_AGREEMENT
    assert not learned.head.alone
    assert learned.share == localization_head.MAP_SHARE
    assert learned.count == 45
    assert fit(pseudo_labels(tmp_path, False), map_share=0.1).share == 0.1


def test_few_pseudo_labels_show_nothing(tmp_path: Path) -> None:
    learned = fit(pseudo_labels(tmp_path, rule=True, count=4))
    assert learned.agreement is None
    assert not learned.head.alone


def test_the_same_seed_gives_the_same_head(tmp_path: Path) -> None:
    labels = pseudo_labels(tmp_path, rule=True)
    first, other = (fit(labels).head for _ in range(2))
    for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_targets_are_mask_and_map_in_their_shares(tmp_path: Path) -> None:
    labels = pseudo_labels(tmp_path, rule=True)
    chosen = np.array([40, 3])
    mask, mixed = labels.target(chosen, 0.0), labels.target(chosen, 0.7)
    assert np.array_equal(mask, labels.take("mask", chosen).astype(np.float32))
    assert mixed.max() == 1  # 0.7 * 0.5 + 0.3, scaled
    assert torch.equal(
        labels.features(chosen, "mirrored")[0], labels.features(chosen, "plain")[0].flip(3)
    )
    assert np.array_equal(labels.target(chosen, 0.0, "mirrored"), mask[:, :, ::-1])
    cropped = labels.target(chosen, 0.0, "cropped")
    assert np.array_equal(cropped, labels.take("cropped_mask", chosen).astype(np.float32))


def test_other_targets_take_the_place_of_unsure_ones_too(tmp_path: Path) -> None:
    labels = pseudo_labels(tmp_path, rule=True)
    target = np.zeros((28, 28), np.float32)
    target[:, :14] = 1
    changed = labels.with_targets({103: target, 140: target})  # 103 was not sure
    assert (len(labels), len(changed)) == (45, 46)
    assert changed.positions.tolist() == sorted({*labels.positions.tolist(), 103})
    index = np.flatnonzero(np.isin(changed.positions, [103, 140]))
    assert sorted(changed.replaced) == index.tolist()
    for share in (0.0, 0.7):
        assert (changed.target(index, share) == target).all()
    assert (changed.target(index, 0.0, "mirrored") == target[:, ::-1]).all()
    assert changed.target(index, 0.0, "cropped").min() >= 0.75  # the left half of the image
    others = np.flatnonzero(~np.isin(labels.positions, [140]))
    assert np.array_equal(changed.target(np.array([0]), 0.7), labels.target(others[:1], 0.7))
    without = labels.with_targets({140: None})
    assert without.positions.tolist() == labels.positions[labels.positions != 140].tolist()
    rest = changed.select(changed.positions != 103)
    assert rest.positions.tolist() == labels.positions.tolist()
    assert [int(rest.positions[n]) for n in rest.replaced] == [140]
    assert fit(changed).count >= 0.7 * 44 + 2 - 1


def test_crops_are_learned_where_held_out_masks_are_predicted_as_well(tmp_path: Path) -> None:
    learned = fit(pseudo_labels(tmp_path, rule=True))
    assert learned.cropped_agreement is not None
    assert learned.learned_crops
    assert "it learned from crops" in learned.describe(60)


def test_crops_that_contradict_the_masks_are_not_learned(tmp_path: Path) -> None:
    learned = fit(pseudo_labels(tmp_path / "a", rule=True, crops_follow=False))
    assert learned.cropped_agreement is not None
    assert learned.agreement is not None
    assert learned.cropped_agreement < learned.agreement - localization_head.MAX_LOSS
    assert not learned.learned_crops
    assert "it did not learn from crops" in learned.describe(60)


def test_a_head_that_is_not_alone_learns_no_crops(tmp_path: Path) -> None:
    learned = fit(pseudo_labels(tmp_path, rule=False))
    assert learned.cropped_agreement is None
    assert not learned.learned_crops


@pytest.mark.parametrize("crops", [False, True])
def test_views_are_drawn_in_their_shares(crops: bool) -> None:
    batches = localization_head._draw_batches(np.arange(40), 4, 0, crops)
    views = [view for _, view in islice(batches, 1000)]
    share = localization_head.CROPPED_SHARE if crops else 0
    assert views.count("cropped") / 1000 == pytest.approx(share, abs=0.04)
    assert views.count("mirrored") / 1000 == pytest.approx((1 - share) / 2, abs=0.05)


def test_boxes_of_masks_are_learned_where_the_head_is_alone(tmp_path: Path) -> None:
    labels = pseudo_labels(tmp_path / "a", rule=True)
    learned = fit(labels, extent=True, steps=100)
    assert learned.head.extent is not None
    assert "it predicts the object's box, too" in learned.describe(60)
    chosen = np.arange(len(labels))
    with torch.no_grad():
        hidden = learned.head.hidden(*labels.features(chosen))
        boxes = learned.head.extent.boxes(hidden, learned.head.out(hidden))
    wanted, known = find_mask_boxes(labels.target(chosen, 0.0))
    assert known.all()
    assert np.abs(boxes.numpy() - wanted).mean() < 0.06
    plain = fit(labels, steps=100)
    for name, values in plain.head.state_dict().items():  # the head itself is as without it
        assert torch.equal(values, learned.head.state_dict()[name])
    assert fit(pseudo_labels(tmp_path / "b", rule=False), extent=True).head.extent is None
    assert describe_unused_extent(True, True) == describe_unused_extent(False, False) == []
    assert "refine.extent=true has no effect" in describe_unused_extent(True, False)[0]


def test_boxes_of_masks_and_their_loss() -> None:
    masks = np.zeros((3, 4, 8), np.float32)
    masks[0, 1:3, 2:6] = 1
    masks[0, 0, 7] = 1  # a smaller component
    masks[2] = 1
    boxes, known = find_mask_boxes(masks)
    assert known.tolist() == [True, False, True]
    assert boxes.tolist() == [[0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0], [0, 0, 1, 1]]
    same = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    assert compute_loss(same, same).tolist() == [0]
    apart = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 0.6, 0.9]])
    loss = compute_loss(apart, same.expand(2, 4))
    assert (loss > 1).all()
    assert torch.isfinite(loss).all()


def test_each_class_of_an_image_has_a_map_of_its_own(tmp_path: Path) -> None:
    """Two squares an image, which other features stand for; a row for the mask of each."""
    random = np.random.default_rng(0)
    count = 48
    features = random.normal(0, 1, (count, 6, 14, 14)).astype(np.float16)
    mask = np.zeros((2 * count, 28, 28), np.float16)
    for n in range(count):
        for label, left in enumerate((0, 7) if n % 2 else (7, 0)):
            y, x = random.integers(0, 8), left + random.integers(0, 2)
            features[n, 2 + label, y : y + 6, x : x + 6] += 5
            mask[2 * n + label, 2 * y : 2 * y + 12, 2 * x : 2 * x + 12] = 1
    rows = features.repeat(2, 0)
    write_arrays(
        tmp_path / "shard-000000.safetensors",
        {"plain0": rows, "mirrored0": rows[..., ::-1], "cropped0": rows, "cropped_mask": mask,
         "map": mask / 2, "mask": mask, "sure": np.ones(2 * count, bool),
         "image": np.arange(count).repeat(2), "class": np.tile([0, 1], count).astype(np.int32),
         "window": np.tile(np.array([0, 0, 1, 1], np.float32), (2 * count, 1))},
    )  # fmt: skip
    labels = PseudoLabels.read([tmp_path], 1)
    fitter = HeadFitter(
        labels=labels, layers=(("last", 6),), compute=COMPUTE, seed=0, classes=2,
        options=RefineOptions(**{**OPTIONS, "steps": 60, "extent": True}),
    )  # fmt: skip
    head = fitter.fit().head
    assert head.alone
    assert head.node["classes"] == 2
    assert head.extent is not None
    with torch.no_grad():
        found = head(torch.from_numpy(features).float()).numpy() > 0.3
    wanted = mask.reshape(count, 2, 28, 28)[:, :, ::2, ::2] > 0.5
    overlap = (found & wanted).sum((2, 3)) / (found | wanted).sum((2, 3))
    assert overlap.mean() > 0.7
    assert ((found & wanted[:, ::-1]).sum((2, 3)) == 0).mean() > 0.8, "not the other's object"
