"""A head that tells the class by what is on the found object: first and second order of features.

    y_ij = A^T f_ij,  f the last layer of stride 16             m  the foreground, from 0 to 1
    B    = sum_ij m_ij y_ij y_ij^T / sum_ij m_ij
    d    = [mean_ij g_ij, sign(B) sqrt|B|],  g the layer `last`
    s_c  = w_c . (d - mean) / std + b_c

How often two features meet in one place tells kinds that differ in pattern and colour, as birds do,
where their mean does not: Carreira et al., "Semantic Segmentation with Second-Order Pooling", ECCV
2012; Lin et al., "Bilinear CNN Models for Fine-grained Visual Recognition", ICCV 2015 (the signed
square root). A are the main axes of f, whitened, so that B is small. What is not object has no say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

AXES = 48


class SecondOrderHead(nn.Module):
    """A branch that reads `last`, a layer of `channels` below it, and the branch `foreground`."""

    def __init__(self, reads: tuple[str, str, str], last: int, channels: int, classes: int) -> None:
        super().__init__()
        self.reads = tuple(reads)
        self.node: dict[str, Any] = {
            "_target_": f"{__name__}.SecondOrderHead",
            "reads": list(reads),
            "last": last,
            "channels": channels,
            "classes": classes,
        }
        axes = min(AXES, channels)
        size = last + axes * (axes + 1) // 2
        self.linear = nn.Linear(size, classes)
        self.register_buffer("axes", torch.zeros(channels, axes))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def turn(self, features: Float[Tensor, "n K h w"]) -> None:
        """Take the axes A from features of some images: those of most variance, made equal."""
        rows = features.double().permute(0, 2, 3, 1).flatten(0, 2)
        rows = rows - rows.mean(0)
        variance, axes = torch.linalg.eigh(rows.T @ rows / max(1, len(rows) - 1))
        count = self.get_buffer("axes").shape[1]
        variance, axes = variance.flip(0)[:count], axes.flip(1)[:, :count]
        # What hardly varies would be noise, blown up.
        scale = variance.clamp(min=1e-4 * float(variance[0]) + 1e-12).sqrt()
        self.get_buffer("axes").copy_((axes / scale).float())

    def described(
        self,
        last: Float[Tensor, "b K h w"],
        below: Float[Tensor, "b L h w"],
        foreground: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b D"]:
        """d, in float32."""
        with torch.autocast(last.device.type, enabled=False):
            last, below, foreground = last.float(), below.float(), foreground.float()
            turned = torch.einsum("blhw,la->bahw", below, self.get_buffer("axes"))
            weight = F.interpolate(foreground, turned.shape[2:], mode="area")
            both = torch.einsum("bihw,bjhw->bij", turned * weight, turned)
            both = both / (weight.sum((2, 3))[:, :, None] + 1e-3)
            row, column = torch.triu_indices(*both.shape[1:], device=both.device)
            pairs = both[:, row, column]
            return torch.cat((last.mean((2, 3)), pairs.sign() * pairs.abs().sqrt()), 1)

    def standard(self, described: Float[Tensor, "b D"]) -> Float[Tensor, "b D"]:
        """Each number of d in units of its deviation, both kinds of numbers with equal say."""
        first = int(self.node["last"])
        said = torch.full_like(self.get_buffer("mean"), (described.shape[1] - first) ** -0.5)
        said[:first] = first**-0.5
        return (described - self.get_buffer("mean")) / self.get_buffer("std") * said

    def learn(
        self, described: Float[Tensor, "n D"], labels: Tensor, decay: float, steps: int
    ) -> None:
        """Multinomial regression: min mean CE(s, label) + decay ||w||^2, by L-BFGS."""
        with torch.no_grad():
            self.get_buffer("mean").copy_(described.mean(0))
            self.get_buffer("std").copy_(described.std(0) + 1e-4)
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            rows = self.standard(described)
        weights: Sequence[Tensor] = [self.linear.weight, self.linear.bias]
        optimizer = torch.optim.LBFGS(weights, max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = F.cross_entropy(self.linear(rows), labels)
            found = found + decay * self.linear.weight.square().sum()
            found.backward()  # type: ignore[no-untyped-call]
            return found

        optimizer.step(loss)  # type: ignore[no-untyped-call]

    def answer(self, described: Float[Tensor, "b D"]) -> Float[Tensor, "b C"]:
        with torch.autocast(described.device.type, enabled=False):
            logits: Tensor = self.linear(self.standard(described))
            return logits

    def forward(self, last: Tensor, below: Tensor, foreground: Tensor) -> Float[Tensor, "b C"]:
        return self.answer(self.described(last, below, foreground))
