"""Training of the localization head on pseudo-labels, and whether it is used alone.

    A        = mean over held-out pseudo-labels of the IoU of the head's map and the mask
    alone    = A >= 0.67
    target   = mask where the head is used alone, else 0.7 map + 0.3 mask
    loss     = BCE(head(features), target)        features of the image, its mirror image or a crop

A first head is trained on the masks of four fifths of the images. Its predictions of the others
show whether masks are consistent or random, as where GrabCut segments a part of the object, or the
road together with the truck. Where held-out masks agree with predictions (birds), masks are the
best target, without the 30 % that the head agrees with least; a head trained on these is better
than its teacher, and is used alone. Where they do not agree (objects of many colours, in a
crowd), targets are a mixture with the map, and localization uses the teacher's map, too
(saliency/refined.py).

Where it is used alone, the head also learns from crops in which the object is larger (windows.py),
unless a first head that learns from crops agrees less with the held-out masks than the other first
head: a head of few weights may have to know the size of objects. No box is read; docs/refine.md has
the gain of each rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.engine.compute import Compute
from pipeline.engine.progress import show_progress
from pipeline.engine.saved_state import SavedState
from pipeline.model.extent import ExtentHead
from pipeline.model.foreground import ForegroundHead, select_class
from pipeline.ops.schedule import lr_factor
from pipeline.stages.refine.config import RefineOptions
from pipeline.stages.refine.extent import Lesson, fit_extent
from pipeline.stages.refine.pseudo_labels import PseudoLabels, View

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Float32, Int
    from torch import Tensor

STATE = "state"  # begins the names of the files that a killed training resumes from
MIN_AGREEMENT = 0.67  # A from which on masks count as consistent
DROPPED_SHARE = 0.3  # of the masks: those that the first head agrees with least
MAP_SHARE = 0.7  # of the map in targets where masks are not consistent
CROPPED_SHARE = 0.2  # of the steps: from crops, where the head learns from crops
MAX_LOSS = 0.01  # of A, that learning from crops may cost
EXTENT_STEPS = 1.5  # of the extent head, for each step of the head
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
        cropped_agreement: A of a first head that learns from crops; None where there is none.
    """

    head: ForegroundHead
    agreement: float | None
    share: float
    count: int
    losses: Sequence[float]
    cropped_agreement: float | None = None

    @property
    def learned_crops(self) -> bool:
        """Whether the head learned from crops."""
        return _pay(self.cropped_agreement, self.agreement)

    def describe(self, images: int) -> str:
        """Return a summary in one line; `images`: how many images had pseudo-labels."""
        agreed = (
            "too few masks to hold some out"
            if self.agreement is None
            else f"held-out masks are predicted with IoU {self.agreement:.2f}"
        )
        so = (
            "boxes come from its map alone"
            if self.head.alone
            else "boxes come from its map and that of its teacher"
        )
        if self.cropped_agreement is not None:
            used = "it learned" if self.learned_crops else "it did not learn"
            so += f"; {used} from crops (held-out IoU with them: {self.cropped_agreement:.2f})"
        so += "; it predicts the object's box, too" if self.head.extent is not None else ""
        return f"learned from {self.count} of {images} images; {agreed}: {so}"


@dataclass(frozen=True, kw_only=True)
class HeadFitter:
    """Fits localization heads to pseudo-labels.

    Args:
        labels: the pseudo-labels.
        layers: name and channels of each layer that the head reads, finest first.
        options: of stage refine.
        compute: device and precision.
        seed: of the initial weights and of the order of images.
        folder: where the states are kept that a killed training resumes from; None: nowhere.
        name: of these states, where heads of other pseudo-labels are fitted in the same folder.
        classes: for how many classes the head has a map of its own; 1: one map for all.
    """

    labels: PseudoLabels
    layers: Sequence[tuple[str, int]]
    options: RefineOptions
    compute: Compute
    seed: int
    folder: Path | None = None
    name: str = ""
    classes: int = 1

    def fit(self) -> FittedHead:
        """Train a first head to measure the agreement of masks, then the final head."""
        everything = np.arange(len(self.labels))
        kept, agreement, cropped = everything, None, None
        share = self.options.map_share
        replaced = np.isin(everything, list(self.labels.replaced))  # they count as right
        if len(self.labels) > FOLDS:
            agreements = self._first_agreements(crops=False)
            agreement = float(agreements[::FOLDS].mean())
            if agreement >= MIN_AGREEMENT:
                share = 0.0 if share is None else share
                if share == 0:
                    with_crops = self._first_agreements(crops=True)
                    cropped = float(with_crops[::FOLDS].mean())
                    agreements = with_crops if _pay(cropped, agreement) else agreements
                least = find_least(agreements, self.labels.take_classes(everything))
                kept = everything[(agreements >= least) | replaced]
        share = MAP_SHARE if share is None else share
        head, losses = self._fit(
            kept, share, self.options.steps, "refine", _pay(cropped, agreement)
        )
        head.set_alone(agreement is not None and agreement >= MIN_AGREEMENT)
        if self.options.extent and head.alone:
            head.set_extent(self._fit_extent(head, kept, _pay(cropped, agreement)))
        return FittedHead(head, agreement, share, len(kept), losses, cropped)

    def _first_agreements(self, crops: bool) -> Float32[np.ndarray, n]:
        """Train a first head on four fifths of the masks, and return its agreement with all."""
        everything = np.arange(len(self.labels))
        seen = everything[everything % FOLDS > 0]
        first, _ = self._fit(seen, 0.0, -(-self.options.steps // 2), "first head", crops)
        return self._agreements(first)

    def _fit(
        self, chosen: Int[np.ndarray, n], share: float, steps: int, what: str, crops: bool
    ) -> tuple[ForegroundHead, list[float]]:
        """Train a new head on some pseudo-labels.

        Args:
            chosen: Their indices.
            share: Of the map in the targets.
            steps: How many.
            what: The title of the progress bar.
            crops: Whether it learns from crops, too.

        Returns:
            The head in eval mode, and the mean loss of each tenth of its steps.
        """
        import torch

        head = self._new_head(chosen)
        optimizer = torch.optim.AdamW(head.parameters(), self.options.lr, weight_decay=1e-4)
        size = min(self.options.batch, len(chosen))
        saved = self._saved_state(what, crops)
        losses = _resume(saved, head, optimizer)
        with show_progress(what, steps, len(losses), unit="steps") as advance:
            batches = islice(_draw_batches(chosen, size, self.seed, crops), len(losses), steps)
            for batch, view in batches:
                for group in optimizer.param_groups:
                    group["lr"] = self.options.lr * lr_factor(len(losses), steps, 0)
                losses.append(self._take_step(head, optimizer, batch, view, share))
                advance(1)
                if saved is not None and (saved.is_due or len(losses) == steps):
                    state = {"head": head.state_dict(), "optimizer": optimizer.state_dict()}
                    saved.save({**state, "losses": losses})
        tenths = np.array_split(np.array(losses), min(10, steps))
        return head.eval(), [round(float(tenth.mean()), 5) for tenth in tenths]

    def _take_step(
        self,
        head: ForegroundHead,
        optimizer: torch.optim.Optimizer,
        batch: Int[np.ndarray, b],
        view: View,
        share: float,
    ) -> float:
        """Change the weights by the gradients of a batch; return the loss."""
        import torch
        from torch.nn import functional as F

        target = torch.from_numpy(self.labels.target(batch, share, view))[:, None]
        target = target.to(self.compute.device)
        with self.compute.autocast():
            logits = self._of_class(head.logits(*self._features(batch, view)), batch).float()
        target = F.interpolate(target, logits.shape[2:], mode="area")
        loss = F.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    def _saved_state(self, what: str, crops: bool) -> SavedState | None:
        """Return where the state of a head's training is kept."""
        if self.folder is None:
            return None
        name = self.name + what.replace(" ", "_") + ("_with_crops" if crops else "")
        return SavedState(self.folder / f"{STATE}_{name}.pt")

    def remove_states(self) -> None:
        """Delete the states of killed trainings, once the result is complete."""
        if self.folder is not None:
            for path in self.folder.glob(f"{STATE}_*.pt"):
                path.unlink()

    def _fit_extent(
        self, head: ForegroundHead, chosen: Int[np.ndarray, n], crops: bool
    ) -> ExtentHead:
        """Train an extent head on the boxes of the masks that the head was trained on."""
        import torch

        steps = round(EXTENT_STEPS * self.options.steps)
        size = min(self.options.batch, len(chosen))
        torch.manual_seed(self.seed)

        def load() -> Iterator[Lesson]:
            for batch, view in islice(_draw_batches(chosen, size, self.seed, crops), steps):
                yield Lesson(
                    self._features(batch, view),
                    self.labels.target(batch, 0.0, view),
                    torch.from_numpy(self.labels.take_classes(batch)),
                )

        return fit_extent(head, load(), steps=steps, lr=self.options.lr, compute=self.compute)

    def _new_head(self, chosen: Int[np.ndarray, n]) -> ForegroundHead:
        """Return a head with random weights, standardized by the features of some images."""
        import torch

        torch.manual_seed(self.seed)
        names, channels = zip(*self.layers, strict=True)
        head = ForegroundHead(names, channels, self.options.width, classes=self.classes)
        few = np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_STANDARDIZED)).astype(int)
        head.standardize(self.labels.features(chosen[few]))
        layout = torch.channels_last
        head.to(self.compute.device, memory_format=layout).train()  # type: ignore[call-overload]
        return head

    def _of_class(
        self, maps: Float[Tensor, "b C h w"], chosen: Int[np.ndarray, b]
    ) -> Float[Tensor, "b 1 h w"]:
        """Return the map of the class of each pseudo-label."""
        import torch

        return select_class(maps, torch.from_numpy(self.labels.take_classes(chosen)))

    def _features(self, chosen: Int[np.ndarray, b], view: View) -> list[Tensor]:
        """Load the features of a view of some images to the device, finest layer first."""
        import torch

        device, layout = self.compute.device, torch.channels_last  # fastest for convolutions
        rows = self.labels.features(chosen, view)
        return [values.to(device, memory_format=layout) for values in rows]

    def _agreements(self, head: ForegroundHead) -> Float32[np.ndarray, n]:
        """Return the IoU of each mask and the head's map, at the best of THRESHOLDS."""
        import torch
        from torch.nn import functional as F

        agreements = []
        for batch in np.array_split(np.arange(len(self.labels)), -(-len(self.labels) // 64)):
            mask = torch.from_numpy(self.labels.target(batch, 0.0))[:, None]
            with torch.inference_mode(), self.compute.autocast():
                maps = self._of_class(head(*self._features(batch, "plain")), batch).float().cpu()
            maps = F.interpolate(maps, mask.shape[2:], mode="bilinear")
            agreements.append(
                torch.stack([_iou(maps > threshold, mask > 0.5) for threshold in THRESHOLDS]).amax(
                    0
                )
            )
        return np.asarray(torch.cat(agreements).numpy())


def find_least(
    agreements: Float32[np.ndarray, n], classes: Int[np.ndarray, n]
) -> Float32[np.ndarray, n]:
    """Find for each mask the agreement below which masks are left out: of those of its class.

    Else a class that is hard to predict would lose most of its masks.

    Args:
        agreements: of the masks.
        classes: the class of each; all the same where the head has one map for all.
    """
    least = np.zeros_like(agreements)
    for label in np.unique(classes):
        of_class = classes == label
        least[of_class] = np.quantile(agreements[of_class], DROPPED_SHARE)
    return least


def _resume(
    saved: SavedState | None, head: ForegroundHead, optimizer: torch.optim.Optimizer
) -> list[float]:
    """Load the state of a killed training into head and optimizer; return the losses so far."""
    if saved is None or not saved.exists:
        return []
    state = saved.load()
    head.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])


def _pay(cropped: float | None, agreement: float | None) -> bool:
    """Return whether the agreement of a first head that learns from crops allows them."""
    return cropped is not None and agreement is not None and cropped >= agreement - MAX_LOSS


def _draw_batches(
    chosen: Int[np.ndarray, n], size: int, seed: int, crops: bool
) -> Iterator[tuple[Int[np.ndarray, b], View]]:
    """Yield batches in random order, epoch after epoch without end, each with the view to learn."""
    cropped_share = CROPPED_SHARE if crops else 0.0
    for epoch in count():
        draw = np.random.default_rng((seed, epoch))
        order = draw.permutation(chosen)
        for first in range(0, len(order) - size + 1, size):
            drawn, view = draw.random(), "plain"
            if drawn >= 1 - cropped_share:
                view = "cropped"
            elif drawn < (1 - cropped_share) / 2:
                view = "mirrored"
            yield order[first : first + size], cast("View", view)


def _iou(a: Tensor, b: Tensor) -> Float[Tensor, n]:
    """Return the IoU of each pair of masks [n, 1, H, W]."""
    both = (a & b).sum((1, 2, 3)).float()
    either: Tensor = (a | b).sum((1, 2, 3)).float()
    return both / either.clamp(min=1)
