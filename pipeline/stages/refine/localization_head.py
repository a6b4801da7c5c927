"""The localization head: how it learns foreground from pseudo-labels, and how far it is trusted.

    A        = mean over held-out pseudo-labels of the IoU of the head's map and the mask
    alone    = A >= 0.67
    target   = mask where it stands alone, else 0.7 map + 0.3 mask
    loss     = BCE(head(features), target)        features of the image or of its mirror image

A first head learns the masks of four fifths of the images. What it predicts of the others follows a
rule; what it does not is chance, as where GrabCut takes a part of the object, or the road with the
truck. Where held-out masks agree with predictions (birds) they are the best target, without the
30 % that the head agrees with least; a head that learns these is better than its teacher, and
stands alone. Where they do not (objects of many colours, in a crowd) the map has its say in the
targets, and the teacher's map in what is localized (saliency/refined.py). No box takes part in any
of this; docs/refine.md has what each rule gained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine.compute import Compute
from pipeline.engine.progress import show_progress
from pipeline.model.foreground import ForegroundHead
from pipeline.ops.schedule import lr_factor
from pipeline.stages.refine.config import RefineOptions
from pipeline.stages.refine.pseudo_labels import PseudoLabels

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int
    from torch import Tensor

MIN_AGREEMENT = 0.67  # A at which held-out masks follow a rule
DOUBTED_SHARE = 0.3  # of the masks, those that the first head agrees with least
MAP_SHARE = 0.7  # of the map in a target where masks follow none
HELD_OUT_EVERY = 5  # every fifth pseudo-label is held out from the first head
CUTS = (0.2, 0.3, 0.4, 0.5)  # thresholds at which maps and masks are compared
MAX_STANDARDIZED = 200  # images whose features set the head's scale


@dataclass(frozen=True)
class FittedHead:
    """A localization head and what its training showed.

    Args:
        head: in eval mode.
        agreement: A; None where there are too few pseudo-labels to tell.
        share: of the map in the targets.
        count: of the pseudo-labels that the final head learned from.
        losses: the mean of each tenth of its steps.
    """

    head: ForegroundHead
    agreement: float | None
    share: float
    count: int
    losses: Sequence[float]

    def describe(self, images: int) -> str:
        """Return what there is to say of it, in one line; `images`: how many there were."""
        agreed = (
            "too few to tell"
            if self.agreement is None
            else f"foretold with IoU {self.agreement:.2f}"
        )
        so = "it stands alone" if self.head.alone else "its teacher's map is asked too"
        return f"learned from {self.count} of {images} images; masks {agreed}: {so}"


@dataclass(frozen=True, kw_only=True)
class HeadFitter:
    """Fits localization heads to pseudo-labels.

    Args:
        labels: the pseudo-labels.
        layers: name and channels of each layer that the head reads, finest first.
        options: of stage refine.
        compute: device and precision.
        seed: of the weights and of the order of images.
    """

    labels: PseudoLabels
    layers: Sequence[tuple[str, int]]
    options: RefineOptions
    compute: Compute
    seed: int

    def fit(self) -> FittedHead:
        """Return the final head, after a first one has shown how far masks can be predicted."""
        everything = np.arange(len(self.labels))
        kept, agreement = everything, None
        if len(self.labels) > HELD_OUT_EVERY:
            seen = everything[everything % HELD_OUT_EVERY > 0]
            first, _ = self._fit(seen, 0.0, -(-self.options.steps // 2), "foretell")
            agreements = self._agreements(first)
            agreement = float(agreements[::HELD_OUT_EVERY].mean())
            if agreement >= MIN_AGREEMENT:
                kept = everything[agreements >= np.quantile(agreements, DOUBTED_SHARE)]
        alone = agreement is not None and agreement >= MIN_AGREEMENT
        share = self.options.map_share
        if share is None:
            share = 0.0 if alone else MAP_SHARE
        head, losses = self._fit(kept, share, self.options.steps, "refine")
        head.set_alone(alone)
        return FittedHead(head, agreement, share, len(kept), losses)

    def _fit(
        self, chosen: Int[np.ndarray, n], share: float, steps: int, what: str
    ) -> tuple[ForegroundHead, list[float]]:
        """Return a new head that learned from the chosen pseudo-labels, and the mean loss of each
        tenth of its steps."""
        import torch
        from torch.nn import functional as F

        options, device = self.options, self.compute.device
        head = self._new_head(chosen)
        optimizer = torch.optim.AdamW(head.parameters(), options.lr, weight_decay=1e-4)
        size = min(options.batch, len(chosen))
        losses = []
        with show_progress(what, steps, unit="steps") as advance:
            batches = islice(_draw_batches(chosen, size, self.seed), steps)
            for step, (batch, mirrored) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = options.lr * lr_factor(step, steps, 0)
                features = self._features(batch, mirrored)
                target = torch.from_numpy(self.labels.target(batch, share))[:, None].to(device)
                target = target.flip(3) if mirrored else target
                with self.compute.autocast():
                    logits = head.logits(*features).float()
                target = F.interpolate(target, logits.shape[2:], mode="area")
                loss = F.binary_cross_entropy_with_logits(logits, target)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(float(loss.detach()))
                advance(1)
        tenths = np.array_split(np.array(losses), min(10, steps))
        return head.eval(), [round(float(tenth.mean()), 5) for tenth in tenths]

    def _new_head(self, chosen: Int[np.ndarray, n]) -> ForegroundHead:
        import torch

        torch.manual_seed(self.seed)
        names, channels = zip(*self.layers, strict=True)
        head = ForegroundHead(names, channels, self.options.width)
        few = np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_STANDARDIZED)).astype(int)
        head.standardize(self.labels.features(chosen[few], mirrored=False))
        layout = torch.channels_last
        head.to(self.compute.device, memory_format=layout).train()  # type: ignore[call-overload]
        return head

    def _features(self, chosen: Int[np.ndarray, b], mirrored: bool) -> list[Tensor]:
        import torch

        device, layout = self.compute.device, torch.channels_last  # fastest for convolutions
        rows = self.labels.features(chosen, mirrored)
        return [values.to(device, memory_format=layout) for values in rows]

    def _agreements(self, head: ForegroundHead) -> Float32[np.ndarray, n]:
        """Return the IoU of each mask and the head's map, at the threshold of best agreement."""
        import torch
        from torch.nn import functional as F

        agreements = []
        for batch in np.array_split(np.arange(len(self.labels)), -(-len(self.labels) // 64)):
            mask = torch.from_numpy(self.labels.target(batch, 0.0))[:, None]
            with torch.inference_mode(), self.compute.autocast():
                maps = head(*self._features(batch, False)).float().cpu()
            maps = F.interpolate(maps, mask.shape[2:], mode="bilinear")
            agreements.append(torch.stack([_iou(maps > cut, mask > 0.5) for cut in CUTS]).amax(0))
        return np.asarray(torch.cat(agreements).numpy())


def _draw_batches(
    chosen: Int[np.ndarray, n], size: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, b], bool]]:
    """Yield batches of all the chosen in a random order, again and again, and whether to mirror."""
    for epoch in count():
        draw = np.random.default_rng((seed, epoch))
        order = draw.permutation(chosen)
        for first in range(0, len(order) - size + 1, size):
            yield order[first : first + size], bool(draw.random() < 0.5)


def _iou(a: Tensor, b: Tensor) -> Float[Tensor, n]:
    both = (a & b).sum((1, 2, 3)).float()
    either: Tensor = (a | b).sum((1, 2, 3)).float()
    return both / either.clamp(min=1)
