"""Student: how refine's head learns foreground from its lessons, and how far it can be trusted.

    A        = mean over lessons that the student did not see of the IoU of its map and the mask
    alone    = A >= 0.67
    target   = mask where it stands alone, else 0.7 map + 0.3 mask
    loss     = BCE(head(features), target)        features of the image or of its mirror image

A first student learns the masks of four fifths of the lessons. What it can foretell of the others
follows a rule; what it cannot is chance, as where GrabCut takes a part of the object, or the road
with the truck. Where masks can be foretold (birds) they are the best target, without the 30 % that
the student agrees with least; a student of these is better than its teacher, and stands alone.
Where they cannot (objects of many colours, in a crowd) the map has its say in the targets, and the
teacher's map in what is localized (saliency/refined.py). No box takes part in any of this;
docs/refine.md has what each rule gained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run
from pipeline.model.foreground import ForegroundHead
from pipeline.ops.schedule import lr_factor
from pipeline.stages.refine.pseudo_labels import Lessons

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int
    from torch import Tensor

FORETOLD = 0.67  # A at which masks follow a rule
DOUBTED = 0.3  # of the masks, those that the first student agrees with least
MAP_SHARE = 0.7  # of the map in a target where they do not
UNSEEN = 5  # every fifth lesson is not seen by the first student
CUTS = (0.2, 0.3, 0.4, 0.5)  # at which maps and masks are compared


@dataclass(frozen=True)
class Learned:
    head: ForegroundHead
    agreement: float | None  # A; None with too few lessons to tell
    share: float  # of the map in the targets
    lessons: int  # that the final student learned from
    losses: Sequence[float]  # the mean of each tenth of its steps

    def told(self, images: int) -> str:
        """What there is to say of it, in one line."""
        agreed = (
            "too few to tell"
            if self.agreement is None
            else f"foretold with IoU {self.agreement:.2f}"
        )
        so = "it stands alone" if self.head.alone else "its teacher's map is asked too"
        return f"learned from {self.lessons} of {images} images; masks {agreed}: {so}"


def learn(run: Run, lessons: Lessons, reads: Sequence[str], channels: Sequence[int]) -> Learned:
    """The final student, in eval mode."""
    knobs, every = run.config["refine"], np.arange(len(lessons))
    kept, agreement = every, None
    if len(lessons) > UNSEEN:
        seen, few = every[every % UNSEEN > 0], -(-knobs["steps"] // 2)
        first, _ = _fit(run, lessons, reads, channels, seen, 0.0, few, "foretell")
        agreed = _agreements(run, first, lessons)
        agreement = float(agreed[::UNSEEN].mean())
        if agreement >= FORETOLD:
            kept = every[agreed >= np.quantile(agreed, DOUBTED)]
    alone = agreement is not None and agreement >= FORETOLD
    share = knobs["map_share"]
    if share is None:
        share = 0.0 if alone else MAP_SHARE
    head, losses = _fit(run, lessons, reads, channels, kept, share, knobs["steps"], "refine")
    head.stand(alone)
    return Learned(head, agreement, share, len(kept), losses)


def _fit(
    run: Run,
    lessons: Lessons,
    reads: Sequence[str],
    channels: Sequence[int],
    chosen: Int[np.ndarray, n],
    share: float,
    steps: int,
    what: str,
) -> tuple[ForegroundHead, list[float]]:
    """A new head that learned from the chosen lessons; the mean loss of each tenth of its steps."""
    import torch
    from torch.nn import functional as F

    knobs, seed = run.config["refine"], run.config["seed"]
    torch.manual_seed(seed)
    head = ForegroundHead(tuple(reads), tuple(channels), knobs["width"])
    few = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), 200)).astype(int)]
    head.standardize(lessons.features(few, mirrored=False))
    head.to(run.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(head.parameters(), knobs["lr"], weight_decay=1e-4)
    size = min(knobs["batch"], len(chosen))
    losses = []
    with show_progress(what, steps, unit="steps") as advance:
        for step, (batch, mirrored) in enumerate(islice(_batches(chosen, size, seed), steps)):
            for group in optimizer.param_groups:
                group["lr"] = knobs["lr"] * lr_factor(step, steps, 0)
            features = _features(run, lessons, batch, mirrored)
            wanted = torch.from_numpy(lessons.target(batch, share))[:, None].to(run.device)
            wanted = wanted.flip(3) if mirrored else wanted
            with runtime.autocast(run.device, run.precision):
                answer = head.logits(*features).float()
            wanted = F.interpolate(wanted, answer.shape[2:], mode="area")
            loss = F.binary_cross_entropy_with_logits(answer, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
            advance(1)
    tenths = np.array_split(np.array(losses), min(10, steps))
    return head.eval(), [round(float(one.mean()), 5) for one in tenths]


def _batches(
    chosen: Int[np.ndarray, n], size: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, b], bool]]:
    """Batches of all the chosen in an order of chance, again and again; whether to mirror each."""
    for epoch in count():
        draw = np.random.default_rng((seed, epoch))
        order = draw.permutation(chosen)
        for first in range(0, len(order) - size + 1, size):
            yield order[first : first + size], bool(draw.random() < 0.5)


def _features(
    run: Run, lessons: Lessons, chosen: Int[np.ndarray, b], mirrored: bool
) -> list[Tensor]:
    import torch

    layout = torch.channels_last  # in which a convolution is fastest
    return [one.to(run.device, memory_format=layout) for one in lessons.features(chosen, mirrored)]


def _agreements(run: Run, head: ForegroundHead, lessons: Lessons) -> Float32[np.ndarray, n]:
    """IoU of each lesson's mask and the head's map, cut where they agree most."""
    import torch
    from torch.nn import functional as F

    found = []
    for batch in np.array_split(np.arange(len(lessons)), -(-len(lessons) // 64)):
        mask = torch.from_numpy(lessons.target(batch, 0.0))[:, None]
        with torch.inference_mode(), runtime.autocast(run.device, run.precision):
            maps = head(*_features(run, lessons, batch, False)).float().cpu()
        maps = F.interpolate(maps, mask.shape[2:], mode="bilinear")
        found.append(torch.stack([_iou(maps > cut, mask > 0.5) for cut in CUTS]).amax(0))
    return np.asarray(torch.cat(found).numpy())


def _iou(a: Tensor, b: Tensor) -> Float[Tensor, n]:
    both = (a & b).sum((1, 2, 3)).float()
    either: Tensor = (a | b).sum((1, 2, 3)).float()
    return both / either.clamp(min=1)
