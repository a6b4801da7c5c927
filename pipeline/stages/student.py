"""Student: how refine's head learns foreground from its lessons, and how far it can be trusted.

    A        = mean over lessons that the student did not see of the IoU of its map and the mask
    alone    = A >= 0.67
    target   = mask where it stands alone, else 0.7 map + 0.3 mask
    loss     = BCE(head(features), target)        features of the image or of its mirror image

A first student learns the masks of four fifths of the lessons. What it can foretell of the others
follows a rule; what it cannot is chance, as where GrabCut takes a part of the object, or the road
with the truck. Where masks can be foretold (birds) they are the best target, best of all the half
that the student agrees with most; a student of these is better than its teacher, and stands alone.
Where they cannot (objects of many colours, in a crowd) the map has its say in the targets, and the
teacher's map in what is localized (saliency/refined.py). No box takes part in any of this;
docs/refine.md has what each rule gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import runtime
from pipeline.model.foreground import ForegroundHead
from pipeline.run import Run
from pipeline.stages.lessons import Lessons
from pipeline.stages.recipe import rate

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int
    from torch import Tensor

FORETOLD = 0.67  # A at which masks follow a rule
MAP_SHARE = 0.7  # of the map in a target where they do not
UNSEEN = 5  # every fifth lesson is not seen by the first student
CUTS = (0.2, 0.3, 0.4, 0.5)  # at which maps and masks are compared


@dataclass(frozen=True)
class Learned:
    head: ForegroundHead
    agreement: float | None  # A; None with too few lessons to tell
    share: float  # of the map in the targets
    lessons: int  # that the final student learned from
    losses: Sequence[float]  # the mean of each of its epochs

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
        first, _ = _fit(run, lessons, reads, channels, every[every % UNSEEN > 0], 0.0, "foretell")
        agreed = _agreements(run, first, lessons)
        agreement = float(agreed[::UNSEEN].mean())
        if agreement >= FORETOLD:
            kept = every[agreed >= np.median(agreed)]
    alone = agreement is not None and agreement >= FORETOLD
    share = knobs["map_share"]
    if share is None:
        share = 0.0 if alone else MAP_SHARE
    head, losses = _fit(run, lessons, reads, channels, kept, share, "refine")
    head.stand(alone)
    return Learned(head, agreement, share, len(kept), losses)


def _fit(
    run: Run,
    lessons: Lessons,
    reads: Sequence[str],
    channels: Sequence[int],
    chosen: Int[np.ndarray, n],
    share: float,
    what: str,
) -> tuple[ForegroundHead, list[float]]:
    """A new head that learned from the chosen lessons, and the mean loss of each epoch."""
    import torch
    from torch.nn import functional as F

    knobs, seed = run.config["refine"], run.config["seed"]
    torch.manual_seed(seed)
    head = ForegroundHead(tuple(reads), tuple(channels), knobs["width"])
    few = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), 200)).astype(int)]
    head.standardize(lessons.features(few, mirrored=False))
    head.to(run.device).train()
    optimizer = torch.optim.AdamW(head.parameters(), knobs["lr"], weight_decay=1e-4)
    size = min(knobs["batch"], len(chosen))
    per_epoch = len(chosen) // size
    steps, losses = knobs["epochs"] * per_epoch, []
    with runtime.progress(what, steps, unit="steps") as advance:
        for epoch in range(knobs["epochs"]):
            draw = np.random.default_rng((seed, epoch))
            order, own = draw.permutation(chosen), []
            for n in range(per_epoch):
                batch = order[n * size : (n + 1) * size]
                mirrored = bool(draw.random() < 0.5)
                for group in optimizer.param_groups:
                    group["lr"] = knobs["lr"] * rate(epoch * per_epoch + n, steps, 0)
                features = [one.to(run.device) for one in lessons.features(batch, mirrored)]
                wanted = torch.from_numpy(lessons.target(batch, share))[:, None].to(run.device)
                wanted = wanted.flip(3) if mirrored else wanted
                answer = head.logits(*features)
                wanted = F.interpolate(wanted, answer.shape[2:], mode="area")
                loss = F.binary_cross_entropy_with_logits(answer, wanted)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                own.append(float(loss.detach()))
                advance(1)
            losses.append(round(float(np.mean(own)), 5))
    return head.eval(), losses


def _agreements(run: Run, head: ForegroundHead, lessons: Lessons) -> Float32[np.ndarray, n]:
    """IoU of each lesson's mask and the head's map, cut where they agree most."""
    import torch
    from torch.nn import functional as F

    found = []
    for batch in np.array_split(np.arange(len(lessons)), -(-len(lessons) // 64)):
        mask = torch.from_numpy(lessons.target(batch, 0.0))[:, None]
        with torch.inference_mode():
            maps = head(*(one.to(run.device) for one in lessons.features(batch, False))).cpu()
        maps = F.interpolate(maps.float(), mask.shape[2:], mode="bilinear")
        found.append(torch.stack([_iou(maps > cut, mask > 0.5) for cut in CUTS]).amax(0))
    return np.asarray(torch.cat(found).numpy())


def _iou(a: Tensor, b: Tensor) -> Float[Tensor, n]:
    both = (a & b).sum((1, 2, 3)).float()
    either: Tensor = (a | b).sum((1, 2, 3)).float()
    return both / either.clamp(min=1)
