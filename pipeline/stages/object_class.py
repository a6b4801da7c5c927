"""Object class: the classes learned once more, by what is on the object that the student found.

    seen   each training image as it is, and ZOOMS random cuts: every side somewhere between the
           image's and the found box's, mirrored or not
    kept   where it names held-back images as well as the classifier's head does

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

from pipeline import checkpoint, shards, show, store
from pipeline.records import Split
from pipeline.run import Run
from pipeline.saliency.looking import boxes_of, zoomed
from pipeline.stages import lessons

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
    head: SecondOrderHead
    top1: float  # of held-back images, by the classifier's head alone
    top1_by_object: float
    held_back: int

    @property
    def kept(self) -> bool:
        return self.held_back >= FEWEST and self.top1_by_object >= self.top1

    def told(self) -> str:
        """What there is to say of it, in one line."""
        if self.held_back < FEWEST:
            return f"classes of the object: {self.held_back} held-back images are too few to judge"
        so = "the object is asked" if self.kept else "the head is asked"
        return (
            f"classes of the object: top-1 of {self.held_back} held-back images {self.top1:.3f} "
            f"by the head, {self.top1_by_object:.3f} by the object: {so}"
        )

    def recorded(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "held_back": self.held_back,
            "top1": round(self.top1, 5),
            "top1_by_object": round(self.top1_by_object, 5),
        }


def learn(
    run: Run, trained: checkpoint.Checkpoint, found: lessons.Lessons, made_of: dict[str, Any]
) -> Learned:
    """A head for a network that has the branch `foreground`; `made_of` is what made the network."""
    import torch

    network = trained.network
    foreground: Any = network.branches["foreground"]
    reads, channels = list(foreground.reads), list(foreground.node["channels"])
    layer = max(0, len(reads) - 2)
    head = _new(reads[layer], channels[layer], channels[-1], len(network.classes))
    few = np.linspace(0, len(found) - 1, min(len(found), 200)).astype(int)
    head.turn(found.features(few, mirrored=False)[layer])
    head.to(run.device)
    seen = _looked(run, trained, head, made_of, "train")
    held = _looked(run, trained, head, made_of, "held_back")
    described = np.concatenate([one[f"seen{n}"] for n in range(1 + ZOOMS) for one in seen])
    labels = np.concatenate([one["labels"] for one in seen] * (1 + ZOOMS))
    head.cpu()  # where what was seen is: an accelerator has nothing to win on a matrix this small
    head.learn(torch.from_numpy(described).float(), torch.from_numpy(labels), DECAY, STEPS)
    learned = Learned(head.eval(), *_judged(head, held))
    head.to(run.device)
    show.line(f"refine: {learned.told()}")
    return learned


def _judged(head: SecondOrderHead, held: Sequence[shards.Arrays]) -> tuple[float, float, int]:
    """Top-1 of held-back images by the classifier's head and by this one, and how many they are."""
    import torch

    by_head, by_object = [], []
    for one in held:
        with torch.no_grad():
            found = head.answer(torch.from_numpy(one["seen0"]).float()).numpy()
        by_head += (one["logits"].argmax(1) == one["labels"]).tolist()
        by_object += (found.argmax(1) == one["labels"]).tolist()
    if not by_head:
        return 0.0, 0.0, 0
    return float(np.mean(by_head)), float(np.mean(by_object)), len(by_head)


def _new(below: str, channels: int, last: int, classes: int) -> SecondOrderHead:
    from pipeline.model.second_order import SecondOrderHead

    return SecondOrderHead(("last", below, "foreground"), last, channels, classes)


def _looked(
    run: Run,
    trained: checkpoint.Checkpoint,
    head: SecondOrderHead,
    made_of: dict[str, Any],
    split: Split,
) -> Sequence[shards.Arrays]:
    """What the head reads of the images of a split: `seen0` as they are, then its cuts."""
    made = {
        "source": run.sources("object_class", "data"),
        "refine": made_of,
        "data": run.data.fingerprint(split),
        "zooms": ZOOMS,
    }
    folder, _ = store.Store(run.outputs).obtain(
        "looks", made, lambda folder: _make(run, folder, trained, head, split)
    )
    found = [store.read_arrays(path)[0] for path in shards.written(folder)]
    return [one for one in found if one]


def _make(
    run: Run, folder: Path, trained: checkpoint.Checkpoint, head: SecondOrderHead, split: Split
) -> None:
    positions = lessons.chosen(run.data.labels(split), run.config["refine"]["images"])

    def work(batch: shards.Labelled) -> shards.Arrays:
        import torch

        images = trained.tensor(shards.pixels(batch))
        with torch.inference_mode():
            first, foreground, logits = _described(trained.network, head, images)
            seen = {"seen0": first}
            if split == "train":
                boxes = boxes_of(foreground).cpu()
                for n in range(1, ZOOMS + 1):
                    cuts, mirrored = _cuts(boxes, shards.positions_of(batch), run.config["seed"], n)
                    views = zoomed(images, cuts.to(images.device))
                    views = torch.where(
                        mirrored.to(images.device)[:, None, None, None], views.flip(3), views
                    )
                    seen[f"seen{n}"] = _described(trained.network, head, views)[0]
        labels = np.array([example.label for _, example in batch], np.int64)
        arrays = {name: one.half().cpu().numpy() for name, one in seen.items()}
        return {**arrays, "logits": logits.float().cpu().numpy(), "labels": labels}

    shards.of_images(run, folder, "looks", split, work, positions)


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
