"""Training of the localization head on pseudo-labels, and whether it is used alone.

    A        = mean over held-out pseudo-labels of the IoU of the head's map and the mask
    alone    = A >= 0.67
    target   = mask where the head is used alone, else 0.7 map + 0.3 mask
    loss     = BCE(head(features), target)        features of the image or of its mirror image

A first head is trained on the masks of four fifths of the images. Its predictions of the others
show whether masks are consistent or random, as where GrabCut segments a part of the object, or the
road together with the truck. Where held-out masks agree with predictions (birds), masks are the
best target, without the 30 % that the head agrees with least; a head trained on these is better
than its teacher, and is used alone. Where they do not agree (objects of many colours, in a
crowd), targets are a mixture with the map, and localization uses the teacher's map, too
(saliency/refined.py). No box is read; docs/refine.md has the gain of each rule.
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

MIN_AGREEMENT = 0.67  # A from which on masks count as consistent
DROPPED_SHARE = 0.3  # of the masks: those that the first head agrees with least
MAP_SHARE = 0.7  # of the map in targets where masks are not consistent
FOLDS = 5  # each fifth pseudo-label is held out from the first head
THRESHOLDS = (0.2, 0.3, 0.4, 0.5)  # of maps, when they are compared with masks
MAX_STANDARDIZED = 200  # images whose features set the head's scale


@dataclass(frozen=True)
class FittedHead:
    """A localization head and the results of its training.

    Args:
        head: in eval mode.
        agreement: A; None where there are too few pseudo-labels.
        share: the share of the map in the targets.
        count: how many pseudo-labels the final head was trained on.
        losses: the mean of each tenth of its steps.
    """

    head: ForegroundHead
    agreement: float | None
    share: float
    count: int
    losses: Sequence[float]

    def describe(self, images: int) -> str:
        """Return a summary in one line; `images`: how many images had pseudo-labels."""
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
        seed: of the initial weights and of the order of images.
    """

    labels: PseudoLabels
    layers: Sequence[tuple[str, int]]
    options: RefineOptions
    compute: Compute
    seed: int

    def fit(self) -> FittedHead:
        """Train a first head to measure the agreement of masks, then the final head."""
        everything = np.arange(len(self.labels))
        kept, agreement = everything, None
        if len(self.labels) > FOLDS:
            seen = everything[everything % FOLDS > 0]
            first, _ = self._fit(seen, 0.0, -(-self.options.steps // 2), "first head")
            agreements = self._agreements(first)
            agreement = float(agreements[::FOLDS].mean())
            if agreement >= MIN_AGREEMENT:
                kept = everything[agreements >= np.quantile(agreements, DROPPED_SHARE)]
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
        """Train a new head on some pseudo-labels.

        Args:
            chosen: Their indices.
            share: Of the map in the targets.
            steps: How many.
            what: The title of the progress bar.

        Returns:
            The head in eval mode, and the mean loss of each tenth of its steps.
        """
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
        """Return a head with random weights, standardized by the features of some images."""
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
        """Load the features of some images to the device, finest layer first."""
        import torch

        device, layout = self.compute.device, torch.channels_last  # fastest for convolutions
        rows = self.labels.features(chosen, mirrored)
        return [values.to(device, memory_format=layout) for values in rows]

    def _agreements(self, head: ForegroundHead) -> Float32[np.ndarray, n]:
        """Return the IoU of each mask and the head's map, at the best of THRESHOLDS."""
        import torch
        from torch.nn import functional as F

        agreements = []
        for batch in np.array_split(np.arange(len(self.labels)), -(-len(self.labels) // 64)):
            mask = torch.from_numpy(self.labels.target(batch, 0.0))[:, None]
            with torch.inference_mode(), self.compute.autocast():
                maps = head(*self._features(batch, False)).float().cpu()
            maps = F.interpolate(maps, mask.shape[2:], mode="bilinear")
            agreements.append(
                torch.stack([_iou(maps > threshold, mask > 0.5) for threshold in THRESHOLDS]).amax(
                    0
                )
            )
        return np.asarray(torch.cat(agreements).numpy())


def _draw_batches(
    chosen: Int[np.ndarray, n], size: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, b], bool]]:
    """Yield batches in random order, epoch after epoch without end, and whether to mirror them."""
    for epoch in count():
        draw = np.random.default_rng((seed, epoch))
        order = draw.permutation(chosen)
        for first in range(0, len(order) - size + 1, size):
            yield order[first : first + size], bool(draw.random() < 0.5)


def _iou(a: Tensor, b: Tensor) -> Float[Tensor, n]:
    """Return the IoU of each pair of masks [n, 1, H, W]."""
    both = (a & b).sum((1, 2, 3)).float()
    either: Tensor = (a | b).sum((1, 2, 3)).float()
    return both / either.clamp(min=1)
