"""Object class: the classes learned once more, by what is on the object that the student found.

    seen   each training image as it is, and ZOOMS random cuts: every side somewhere between the
           image's and the found box's, mirrored or not
    kept   where it names unseen images better than the same regression on means alone, two-fold
           over training images; and names the held-back ones no worse than the classifier's head
           does, by more than a standard error

Birds differ in patterns that a mean over the image loses (model/second_order.py). What is seen is
described once and lies in shards, so a killed run goes on; then learning takes seconds. Labels
alone take part, and the held-back images are those that train judges its epochs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, shards, store, terminal
from pipeline.engine.run import Run
from pipeline.formats.arrays import read_arrays
from pipeline.results.shards import list_shards
from pipeline.saliency.zoom import boxes_of, zoomed
from pipeline.stages.refine import pseudo_labels
from pipeline.types import Split

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pipeline.model.classifier import Classifier
    from pipeline.model.second_order import SecondOrderHead

ZOOMS = 3
DECAY, STEPS = 1e-4, 60
FEWEST = 20  # held-back images that can tell whether it is as good as the head


@dataclass(frozen=True)
class Learned:
    """Top-1 of images that nothing compared here has learned from."""

    head: SecondOrderHead
    two_fold: float  # of training images, each by what learned from the other half
    two_fold_by_means: float  # the same, of means alone
    by_object: float  # of held-back images
    by_head: float  # of these by the classifier's head
    error: float  # the standard error of the difference of these two
    held_back: int

    @property
    def kept(self) -> bool:
        return (
            self.held_back >= FEWEST
            and self.two_fold >= self.two_fold_by_means
            and self.by_object >= self.by_head - self.error
        )

    def told(self) -> str:
        """What there is to say of it, in one line."""
        if self.held_back < FEWEST:
            return f"classes of the object: {self.held_back} held-back images are too few to judge"
        return (
            f"top-1 by the object {self.by_object:.3f}, by the head {self.by_head:.3f} "
            f"({self.held_back} held-back images); two-fold {self.two_fold:.3f}, by means alone "
            f"{self.two_fold_by_means:.3f}: the {'object' if self.kept else 'head'} is asked"
        )

    def recorded(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "head"}
        return {"kept": self.kept} | {name: round(value, 5) for name, value in own.items()}


def learn(
    run: Run,
    trained: checkpoint.Checkpoint,
    found: pseudo_labels.Lessons,
    cache_key: dict[str, Any],
) -> Learned:
    """A head for a network that has the branch `foreground`; `cache_key` is what made the
    network."""
    network = trained.network
    foreground: Any = network.branches["foreground"]
    reads, channels = list(foreground.reads), list(foreground.node["channels"])
    layer = max(0, len(reads) - 2)
    head = _new(reads[layer], channels[layer], channels[-1], len(network.classes))
    few = np.linspace(0, len(found) - 1, min(len(found), 200)).astype(int)
    head.turn(found.features(few, mirrored=False)[layer])
    head.to(run.device)
    seen = _looked(run, trained, head, cache_key, "train")
    held = _looked(run, trained, head, cache_key, "held_back")
    views = [np.concatenate([one[f"seen{n}"] for one in seen]) for n in range(1 + ZOOMS)]
    labels = np.concatenate([one["labels"] for one in seen])
    head.cpu()  # where what was seen is: an accelerator has nothing to win on a matrix this small
    two_fold = _two_fold(head, views, labels)
    by_means = _two_fold(head, views, labels, means_alone=True)
    _fit(head, views, labels)
    learned = Learned(head.eval(), two_fold, by_means, *_judged(head, held))
    head.to(run.device)
    terminal.print_line(f"refine: {learned.told()}")
    return learned


def _fit(head: SecondOrderHead, views: Sequence[np.ndarray], labels: np.ndarray) -> None:
    import torch

    described = torch.from_numpy(np.concatenate(views)).float()
    head.learn(described, torch.from_numpy(np.tile(labels, len(views))), DECAY, STEPS)


def _two_fold(
    head: SecondOrderHead,
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    means_alone: bool = False,
) -> float:
    """Top-1 of images as they are, every second one by what learned from the others."""
    import torch

    if means_alone:
        views = [view.copy() for view in views]
        for view in views:
            view[:, head.node["last"] :] = 0
    right, odd = 0, np.arange(len(labels)) % 2 == 1
    for half in (odd, ~odd):
        if half.all() or not half.any():
            return 0.0
        _fit(head, [view[~half] for view in views], labels[~half])
        with torch.no_grad():
            found = head.answer(torch.from_numpy(views[0][half]).float()).argmax(1).numpy()
        right += int((found == labels[half]).sum())
    return right / len(labels)


def _judged(
    head: SecondOrderHead, held: Sequence[shards.Arrays]
) -> tuple[float, float, float, int]:
    """Of held-back images: top-1 by this head, by the classifier's, the difference's standard
    error, and how many they are."""
    import torch

    by_object, by_head = [], []
    for one in held:
        with torch.no_grad():
            found = head.answer(torch.from_numpy(one["seen0"]).float()).numpy()
        by_object += (found.argmax(1) == one["labels"]).tolist()
        by_head += (one["logits"].argmax(1) == one["labels"]).tolist()
    if not by_head:
        return 0.0, 0.0, 0.0, 0
    differ = np.array(by_object, float) - np.array(by_head, float)
    error = float(differ.std() / np.sqrt(len(differ)))
    return float(np.mean(by_object)), float(np.mean(by_head)), error, len(differ)


def _new(below: str, channels: int, last: int, classes: int) -> SecondOrderHead:
    from pipeline.model.second_order import SecondOrderHead

    return SecondOrderHead(("last", below, "foreground"), last, channels, classes)


def _looked(
    run: Run,
    trained: checkpoint.Checkpoint,
    head: SecondOrderHead,
    cache_key: dict[str, Any],
    split: Split,
) -> Sequence[shards.Arrays]:
    """What the head reads of the images of a split: `seen0` as they are, then its cuts."""
    made = {
        "source": run.sources(__name__, "data"),
        "refine": cache_key,
        "data": run.data.fingerprint(split),
        "zooms": ZOOMS,
    }
    folder, _ = store.Store(run.outputs).get_or_create(
        "looks", made, lambda folder: _make(run, folder, trained, head, split)
    )
    found = [read_arrays(path)[0] for path in list_shards(folder)]
    return [one for one in found if one]


def _make(
    run: Run, folder: Path, trained: checkpoint.Checkpoint, head: SecondOrderHead, split: Split
) -> None:
    positions = pseudo_labels.chosen(run.data.labels(split), run.config["refine"]["images"])

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        import torch

        images = trained.tensor(shards.stack_pixels(batch))
        with torch.inference_mode():
            first, foreground, logits = _described(trained.network, head, images)
            seen = {"seen0": first}
            if split == "train":
                boxes = boxes_of(foreground).cpu()
                for n in range(1, ZOOMS + 1):
                    cuts, mirrored = _cuts(
                        boxes, shards.stack_positions(batch), run.config["seed"], n
                    )
                    views = zoomed(images, cuts.to(images.device))
                    views = torch.where(
                        mirrored.to(images.device)[:, None, None, None], views.flip(3), views
                    )
                    seen[f"seen{n}"] = _described(trained.network, head, views)[0]
        labels = np.array([example.label for _, example in batch], np.int64)
        arrays = {name: one.half().cpu().numpy() for name, one in seen.items()}
        return {**arrays, "logits": logits.float().cpu().numpy(), "labels": labels}

    shards.write_image_shards(run, folder, "looks", split, work, positions)


def _described(
    network: Classifier, head: SecondOrderHead, images: Float[Tensor, "b 3 H W"]
) -> tuple[Tensor, Tensor, Tensor]:
    answer = network(images, at=head.reads)
    read = [answer.activations[name] for name in head.reads]
    return head.described(*read), read[-1], answer.logits


def _cuts(
    boxes: Float[Tensor, "b 4"], positions: np.ndarray, seed: int, number: int
) -> tuple[Float[Tensor, "b 4"], Tensor]:
    """A random cut of each image, and whether to mirror it, both by the image's position."""
    import torch

    draws = np.stack(
        [np.random.default_rng((seed, int(position), number)).random(5) for position in positions]
    )
    part = torch.from_numpy(draws[:, :4]).to(boxes)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(boxes)
    return whole + (boxes - whole) * part, torch.from_numpy(draws[:, 4] < 0.5)
