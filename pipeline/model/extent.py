"""Where the box of the object begins and ends, as distributions over columns and rows.

    z = relu(conv3x3([x, logits / 4]))            x, logits: of a foreground head, h x w cells
    columns: p = conv1d([max over rows of z, mean over rows of z])      rows likewise
    first, last = softmax(p)                      over the w + 1 borders between columns
    inside(i) = sum(first up to border i) * (1 - sum(last up to border i))
    map(i, j) = inside(column i) * inside(row j)

The expected borders are a box. PSOL (Zhang et al., "Rethinking the Route Towards Weakly Supervised
Object Localization", CVPR 2020) regresses one from averaged features, which lose where things are;
here the profiles of columns and rows keep it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

SCALE = 4.0  # logits of a foreground head are some four units large
WIDTH, DEEP_WIDTH = 32, 64


class ExtentHead(nn.Module):
    """Predicts the box of the object from what a foreground head computes.

    Args:
        width: channels of the foreground head.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width + 1, WIDTH, 3, padding=1)
        self.columns, self.rows = _build_profile_layers(), _build_profile_layers()

    def borders(
        self, hidden: Float[Tensor, "b K h w"], logits: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 2 w+1"], Float[Tensor, "b 2 h+1"]]:
        """Compute where the box begins and ends: distributions over borders of columns and rows.

        Args:
            hidden: the last features of the foreground head.
            logits: its map before the sigmoid.
        """
        z = self.mix(torch.cat((hidden, logits / SCALE), 1)).relu()
        columns = self.columns(torch.cat((z.amax(2), z.mean(2)), 1))
        rows = self.rows(torch.cat((z.amax(3), z.mean(3)), 1))
        return columns.float().softmax(2), rows.float().softmax(2)

    def boxes(
        self, hidden: Float[Tensor, "b K h w"], logits: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 4"]:
        """Compute the expected box, `xyxy` relative to the image; arguments as of `borders`."""
        x, y = (_expect(ends) for ends in self.borders(hidden, logits))
        return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), 1)

    def forward(
        self, hidden: Float[Tensor, "b K h w"], logits: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 1 h w"]:
        """Compute the probability that each cell is in the box; arguments as of `borders`."""
        x, y = (_sum_inside(ends) for ends in self.borders(hidden, logits))
        return (x[:, None, :] * y[:, :, None])[:, None]


def _build_profile_layers() -> nn.Sequential:
    """Build the layers that see a profile; the last gives a value for each border."""
    return nn.Sequential(
        nn.Conv1d(2 * WIDTH, DEEP_WIDTH, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(DEEP_WIDTH, DEEP_WIDTH, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(DEEP_WIDTH, 2, 4, padding=2),
    )


def _expect(ends: Float[Tensor, "b 2 n+1"]) -> Float[Tensor, "b 2"]:
    """Return the expected position of both ends, from 0 to 1."""
    return (ends * torch.linspace(0, 1, ends.shape[2], device=ends.device)).sum(2)


def _sum_inside(ends: Float[Tensor, "b 2 n+1"]) -> Float[Tensor, "b n"]:
    """Return the probability that each cell lies behind the first end and before the last."""
    passed = ends.cumsum(2)[:, :, :-1]
    return passed[:, 0] * (1 - passed[:, 1])
