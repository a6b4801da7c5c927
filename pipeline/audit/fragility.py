"""Fragility: can a change too small to see alter the map, though the prediction stays?

    x_{t+1} = clip(x_t - step * sign(d D(x_t) / d x))        |x_t - x| <= epsilon, all pixels valid
    D(x)    = the share of the map that lies on the k most important pixels of the original's map

Ghorbani et al., "Interpretation of Neural Networks is Fragile", AAAI 2019, algorithm 1, the top-k
attack. Among the images of these steps whose predicted class is that of the original, the result is
the image whose map shares the fewest of its top k pixels with the original's: a lower bound of the
fragility, whatever map the gradients are of. Where a step loses the class, the next step goes
back towards it. Random signs of the same epsilon are the baseline.

A method's map has no gradient in general, so D is taken of a similar map: where maps are as fine as
the image, the magnitude of the gradient; where they are coarse, Grad-CAM at the layer that the head
reads. For gradient and gradcam themselves this is the paper's attack; other methods are attacked by
transfer, and may be more fragile than this test shows.

The gradient of a gradient is a product with the Hessian, H u with u = d D / d g. A ReLU network's
Hessian is zero almost everywhere. The paper puts softplus in place of ReLU; here the product is a
difference, g(x + u) - g(x), over half of epsilon: it needs no changed network, which would predict
other classes, costs two gradients, and reached smaller shares in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.audit.likeness import (
    compare_top_k,
    enlarge,
    mark_top_cells,
    order_by_importance,
    rank_correlation,
)
from pipeline.audit.pictures import (
    EDGE,
    WIDTH,
    Arrays,
    colour_map,
    draw_box,
    format_mean,
    resize,
    to_pixels,
    write_heading,
)
from pipeline.ops.iou import pairwise_iou
from pipeline.ops.precision import disable_autocast
from pipeline.ops.probabilities import predict_classes
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import Sheet
from pipeline.plotting.sheet import FAINT
from pipeline.protocols import Network
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, NetworkOutput, PartValues

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int
    from PIL import Image

TOP = 0.02  # of the pixels: 1000 of 224 x 224, as in the paper
CHECKS = 5  # of the attack's steps, evenly, in which the method's map is computed
SIDE, GAP = 276, 14  # of the panels, in pixels
CAPTION = 58  # pixels below a row
ROWS = 4  # images on the picture at most


@dataclass(frozen=True)
class Fragility:
    """Test whether a change too small to see alters the map though the prediction stays."""

    epsilon: float = 8 / 255  # how far a pixel from 0 to 1 may change
    attack_steps: int = 10

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("random_top_k", "random signs: top pixels kept", "high"),
        AuditNumber("random_iou", "random signs: IoU of the boxes", "high"),
        AuditNumber("attack_top_k", "attack: top pixels kept", "high"),
        AuditNumber("attack_rank", "attack: rank correlation", "high"),
        AuditNumber("attack_iou", "attack: IoU of the boxes", "high"),
    )
    is_costly: ClassVar[bool] = True
    picture_arrays: ClassVar[tuple[str, ...]] = (
        "seen", "seen_image", "seen_map", "seen_random", "seen_random_map", "seen_attack",
        "seen_attack_map",
    )  # fmt: skip

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network with gradients can be attacked."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure how maps and boxes change when images are attacked, in float32."""
        trained = subject.trained
        bounds = Bounds.of(trained.mean, trained.std, self.epsilon, batch.images.device)
        with disable_autocast(batch.images):
            before, attacks = measure_fragility(trained.network, batch, bounds, self.attack_steps)
        boxes = batch.best_boxes(before)
        arrays: dict[str, np.ndarray] = {}
        for name, moved in attacks.items():
            arrays |= {
                f"{name}_{key}": values
                for key, values in _compare(moved, boxes, batch.best_boxes(moved.maps)).items()
            }
            arrays[f"seen_{name}"] = to_pixels(moved.images[: batch.shown], trained)
            arrays[f"seen_{name}_map"] = to_numpy(moved.maps[: batch.shown])
        return {
            **arrays,
            "box": boxes,
            "size": np.array(batch.sizes, np.int32),
            "seen": np.array(batch.positions[: batch.shown], np.int32),
            "seen_image": batch.pixels[: batch.shown],
            "seen_map": to_numpy(before[: batch.shown]),
        }

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw a few images, their maps and boxes before and after the attack."""
        rows = min(ROWS, len(arrays["seen"]))
        sheet = Sheet(WIDTH, 152 + rows * (SIDE + CAPTION) + 20)
        means = ", ".join(
            format_mean(name, arrays[values], subject.seed)
            for name, values in (
                ("random signs", "random_top_k"),
                ("attack", "attack_top_k"),
                ("its boxes' IoU", "attack_iou"),
            )
        )
        write_heading(
            sheet,
            subject,
            "does a change too small to see move the map?",
            f"{len(arrays['image'])} {subject.unit}; "
            f"every pixel by at most {self.epsilon * 255:.3g} of "
            f"255, the class predicted stays. Top {100 * TOP:g} % of pixels kept: {means}",
        )
        titles = ("image, its box", "map", "attacked image, its box", "map",
                  "change, from -1 to +1 of the bound")  # fmt: skip
        for k, title in enumerate(titles):
            sheet.write_text(EDGE + k * (SIDE + GAP), 120, title, 17, FAINT)
        # Pictures are kept of some images: their numbers are those of the same positions.
        places = arrays["image"].tolist()
        for row in range(rows):
            self._draw_row(sheet, subject, arrays, row, places.index(arrays["seen"][row]))
        return sheet.to_image()

    def _draw_row(
        self, sheet: Sheet, subject: AuditSubject, arrays: Arrays, row: int, place: int
    ) -> None:
        """Draw image number `row` of those kept for pictures, number `place` in the arrays."""
        y = 148 + row * (SIDE + CAPTION)
        image, attacked = arrays["seen_image"][row], arrays["seen_attack"][row]
        change = (attacked.astype(np.float32) - image) / max(255 * self.epsilon, 1e-6)
        size = arrays["size"][place]
        panels = [
            draw_box(image, arrays["box"][place], size, SIDE),
            resize(colour_map(arrays["seen_map"][row]), SIDE, SIDE),
            draw_box(attacked, arrays["attack_box"][place], size, SIDE),
            resize(colour_map(arrays["seen_attack_map"][row]), SIDE, SIDE),
            resize((change * 127 + 128).clip(0, 255).astype(np.uint8), SIDE, SIDE),
        ]
        for k, panel in enumerate(panels):
            sheet.paste(EDGE + k * (SIDE + GAP), y, panel)
        name = subject.trained.classes[int(arrays["class"][place])]
        sheet.write_text(EDGE, y + SIDE + 10, f"{name}: {_caption(arrays, place)}", 17)


def _caption(arrays: Arrays, place: int) -> str:
    """Return the numbers of an image as a caption."""
    attack, random = (
        ", ".join(f"{arrays[f'{kind}_{key}'][place]:.2f}" for key in ("top_k", "rank", "iou"))
        for kind in ("attack", "random")
    )
    caption = (
        f"top pixels kept, rank correlation, IoU of the boxes {attack}; by random signs {random}"
    )
    kept = arrays["attack_kept"][place]
    return caption if kept else f"{caption}; no change on the way kept the class"


def _compare(
    moved: AttackResult, before: Float32[np.ndarray, "b 4"], after: Float32[np.ndarray, "b 4"]
) -> Mapping[str, np.ndarray]:
    """Return how similar maps and boxes are before and after an attack."""
    overlaps = [pairwise_iou(a[None], b[None])[0, 0] for a, b in zip(before, after, strict=True)]
    return {
        "top_k": to_numpy(moved.top_k),
        "rank": to_numpy(moved.rank),
        "kept": to_numpy(moved.kept),
        "box": after,
        "iou": np.array(overlaps),
    }


# -- the attack ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """The range of pixels and of their change, on the network's scale: [3, 1, 1] each."""

    low: Tensor
    high: Tensor
    epsilon: Tensor

    @classmethod
    def of(
        cls, mean: Sequence[float], std: Sequence[float], epsilon: float, device: torch.device
    ) -> Bounds:
        """Return the bounds for pixels in [0, 1], which may change by `epsilon`."""
        m, s = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
        return cls(-m / s, (1 - m) / s, epsilon / s)

    def clip(self, images: Tensor, around: Tensor) -> Tensor:
        """Return images within the bounds around the originals."""
        near = images.clamp(around - self.epsilon, around + self.epsilon)
        # Rounding may put an original pixel beyond the bounds: it may keep its value.
        return near.clamp(torch.minimum(self.low, around), torch.maximum(self.high, around))


@dataclass(frozen=True)
class AttackResult:
    """Of each image the changed image whose map differs most, within the bounds."""

    images: Float[Tensor, "b 3 H W"]
    maps: Float[Tensor, "b h w"]
    top_k: Float[Tensor, "b"]
    rank: Float[Tensor, "b"]
    kept: Bool[Tensor, "b"]  # whether any changed image kept the class; else it is the original


def measure_fragility(
    network: Network, batch: AuditBatch, bounds: Bounds, steps: int
) -> tuple[Float[Tensor, "b h w"], dict[str, AttackResult]]:
    """Measure how an attack and random signs change the maps of a batch.

    Args:
        network: The network, which stays as it is.
        batch: The images, their classes, and how they are explained.
        bounds: The range of pixels and of their change.
        steps: Steps of the attack.

    Returns:
        The maps of the original images; the results of random signs (`random`) and of the attack
        (`attack`).
    """
    original, images = Original.of(network, batch), batch.images
    signs = np.stack(
        [np.random.default_rng(seed).choice([-1.0, 1.0], images.shape[1:]) for seed in batch.seeds]
    )
    noisy = bounds.clip(images + bounds.epsilon * torch.from_numpy(signs).to(images), images)
    random = original.keep_worse(original.start(), noisy)
    attacked, current = original.start(), images
    checked_steps = {round(steps * (n + 1) / CHECKS) for n in range(CHECKS)}
    for step in range(1, steps + 1):
        direction = original.compute_descent(current, bounds)
        # 2.5 times epsilon over all steps: enough to cross the bounds, and to turn within them.
        current = bounds.clip(current + 2.5 / steps * bounds.epsilon * direction.sign(), images)
        if step in checked_steps:
            attacked = original.keep_worse(attacked, current)
    return original.maps, {"random": random, "attack": attacked}


@dataclass(frozen=True)
class Original:
    """Original images, which attacked images are compared with."""

    network: Network
    batch: AuditBatch
    maps: Float[Tensor, "b h w"]
    predicted: Int[Tensor, "b"]
    order: Int[Tensor, "b n"]  # of the pixels, the most important first

    @classmethod
    def of(cls, network: Network, batch: AuditBatch) -> Original:
        """Compute the predicted classes, maps and orders of importance of a batch."""
        predicted = predict_classes(batch.logits_of(network, batch.images))
        maps = batch.maps_of(network, batch.images)
        large = enlarge(maps, batch.images.shape[2:])
        return cls(network, batch, maps, predicted, order_by_importance(large, batch.seeds))

    @property
    def top(self) -> int:
        """The number k of most important pixels."""
        return max(1, round(TOP * self.order.shape[1]))

    @property
    def marked(self) -> Bool[Tensor, "b H W"]:
        """The k most important pixels."""
        images = self.batch.images
        return mark_top_cells(self.order, self.top).view(len(images), *images.shape[2:])

    @property
    def has_fine_maps(self) -> bool:
        """Whether maps are as fine as the image."""
        return list(self.maps.shape[1:]) == list(self.batch.images.shape[2:])

    def start(self) -> AttackResult:
        """Return the result of an attack that has changed nothing."""
        images = self.batch.images
        ones = torch.ones(len(images), dtype=torch.float64, device=images.device)
        return AttackResult(images, self.maps, ones, ones, ones == 0)

    def keep_worse(self, best: AttackResult, images: Float[Tensor, "b 3 H W"]) -> AttackResult:
        """Replace images where others keep the class and their maps share fewer top pixels.

        Args:
            best: The result so far.
            images: Other changed images, within the bounds.
        """
        maps = self.batch.maps_of(self.network, images)
        large = enlarge(maps, images.shape[2:])
        shared = compare_top_k(self.order, order_by_importance(large, self.batch.seeds), self.top)
        same = predict_classes(self.batch.logits_of(self.network, images)) == self.predicted
        take = same & (shared < best.top_k)

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(take.view(-1, *[1] * (new.ndim - 1)), new, old)

        return AttackResult(
            choose(images, best.images),
            choose(maps, best.maps),
            choose(shared, best.top_k),
            choose(rank_correlation(self.maps, maps), best.rank),
            best.kept | same,
        )

    def compute_descent(
        self, images: Float[Tensor, "b 3 H W"], bounds: Bounds
    ) -> Float[Tensor, "b 3 H W"]:
        """Return the direction in which a smaller share of the map lies on the marked pixels.

        Where the predicted class is lost, it is the direction back to the class.
        """
        with torch.enable_grad():
            answer = self.network(images, at=("input", "last"))
        lost = predict_classes(self.batch.select_logits(answer.logits)) != self.predicted
        back = self._margin_gradient(answer) if lost.any() else None
        if self.has_fine_maps:
            down = self._descent_of_gradient(images, answer, bounds)
        else:
            down = self._descent_of_gradcam(answer)
        return down if back is None else torch.where(lost[:, None, None, None], back, down)

    def _margin_gradient(self, answer: NetworkOutput) -> Float[Tensor, "b 3 H W"]:
        """Return the gradient of the predicted class's logit minus the highest other logit."""
        column = self.predicted[:, None]
        with torch.enable_grad():
            logits = self.batch.select_logits(answer.logits)
            if logits.shape[1] == 1:  # a class for itself, predicted where its logit is positive
                margin = torch.where(column < 0, -logits, logits).sum()
            else:
                others = logits.scatter(1, column, -torch.inf).amax(1)
                margin = (logits.gather(1, column)[:, 0] - others).sum()
            pixels = answer.activations["input"]
            (back,) = torch.autograd.grad(margin, pixels, retain_graph=True)
        return back

    def _descent_of_gradcam(self, answer: NetworkOutput) -> Float[Tensor, "b 3 H W"]:
        """Return the direction that reduces the marked share of Grad-CAM's map."""
        pixels, features = answer.activations["input"], answer.activations["last"]
        with torch.enable_grad():
            score = answer.logits.gather(1, self.batch.classes[:, None]).sum()
            (alpha,) = torch.autograd.grad(score, features, create_graph=True)
            maps = (alpha.mean((2, 3), keepdim=True) * features).sum(1).relu()
            share = _share(enlarge(maps, pixels.shape[2:]), self.marked)
            (down,) = torch.autograd.grad(-share.sum(), pixels)
        return down

    def _descent_of_gradient(
        self, images: Float[Tensor, "b 3 H W"], answer: NetworkOutput, bounds: Bounds
    ) -> Float[Tensor, "b 3 H W"]:
        """Return the direction that reduces the marked share of the gradient map.

        It is a product with the Hessian, computed as the difference of two gradients.
        """
        with torch.enable_grad():
            score = answer.logits.gather(1, self.batch.classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, answer.activations["input"])
            leaf = gradient.requires_grad_()
            share = _share(leaf.abs().sum(1), self.marked).sum()
            (direction,) = torch.autograd.grad(share, leaf)
        largest = (
            direction.abs()
            .amax((1, 2, 3), keepdim=True)
            .clamp(min=torch.finfo(direction.dtype).tiny)
        )
        ahead = images + bounds.epsilon / 2 * direction / largest
        return gradient.detach() - _gradient(self.network, ahead, self.batch.classes)


def _share(maps: Float[Tensor, "b H W"], marked: Bool[Tensor, "b H W"]) -> Float[Tensor, "b"]:
    """Return the share of each map that lies on the marked pixels."""
    return (maps * marked).sum((1, 2)) / maps.sum((1, 2)).clamp(min=1e-20)


def _gradient(
    network: Network, images: Float[Tensor, "b 3 H W"], classes: Int[Tensor, "b"]
) -> Float[Tensor, "b 3 H W"]:
    """Return the gradient of each image's class score."""
    with torch.enable_grad():
        answer = network(images, at=("input",))
        score = answer.logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, answer.activations["input"])
    return gradient
