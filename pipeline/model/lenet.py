"""LeNet-5: the convolutional network for handwritten digits.

    grey, margin    28 x 28 to 32 x 32, so that strokes at the border lie inside a filter
    C1, S2          6 maps of 5 x 5 filters, 28 x 28; subsampled to 14 x 14
    C3              16 maps of 5 x 5 filters, 10 x 10: the last feature maps
    S4, C5, F6      subsampled to 5 x 5; fully connected: 120, 84, and a logit a class

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 1998, section II.B. As it is built today: each map of C3 reads all of S2,
subsampling has no weights, and the output is linear and not radial. ReLU and maximum pooling
replace tanh and averages (`activation=tanh pooling=average` has those), as deconvnet and guided
backprop change the backward pass of ReLU alone.

The image's three colours are averaged to grey. So the gradient at each colour is a third of the
gradient at the grey pixel, and their sum, `saliency=gradient_signed`, is that gradient.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.builder import Builder

if TYPE_CHECKING:
    from jaxtyping import Float

# The values that the paper scales background and strokes to: mean 0, variance 1.
BACKGROUND, STROKE = -0.1, 1.175
MIN_SIDE = 12  # pixels: the maps of C3 are 2 x 2 then, the smallest that S4 can pool


@dataclass(frozen=True)
class LeNet(Builder):
    """Builder of LeNet-5: `train.head=own` trains its fully connected head, else a GAP head.

    Args:
        activation: relu, or tanh as in the paper.
        pooling: max, or average as in the paper.
    """

    activation: Literal["relu", "tanh"] = "relu"
    pooling: Literal["max", "average"] = "max"

    std = (1 / (STROKE - BACKGROUND),) * 3
    mean = (-BACKGROUND / (STROKE - BACKGROUND),) * 3
    last = ""
    below = "s2"
    has_own_head = True
    own_head_from_scratch = True

    def body(self) -> tuple[nn.Sequential, int]:
        """Return the body up to C3, with random weights, and its number of feature maps."""
        maps = nn.Sequential(
            OrderedDict(
                grey=Grey(),
                margin=nn.ConstantPad2d(2, BACKGROUND),
                c1=nn.Conv2d(1, 6, 5),
                act1=self._activation(),
                s2=self._pooling(),
                c3=nn.Conv2d(6, 16, 5),
                act3=self._activation(),
            )
        )
        return maps, 16

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return body and fully connected head for so many classes, with random weights."""
        head = nn.Sequential(
            OrderedDict(
                s4=self._pooling(),
                fit=nn.AdaptiveAvgPool2d(5),  # of larger images; a digit's maps are 5 x 5
                flat=nn.Flatten(),
                c5=nn.Linear(16 * 5 * 5, 120),
                act5=self._activation(),
                f6=nn.Linear(120, 84),
                act6=self._activation(),
                output=nn.Linear(84, classes),
            )
        )
        return self.body()[0], head

    def _activation(self) -> nn.Module:
        return nn.ReLU() if self.activation == "relu" else nn.Tanh()

    def _pooling(self) -> nn.Module:
        return nn.MaxPool2d(2) if self.pooling == "max" else nn.AvgPool2d(2)


class Grey(nn.Module):
    """The mean of red, green and blue."""

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1 H W"]:
        """Average the colours.

        Raises:
            UserError: The images are too small for the layers that follow.
        """
        height, width = images.shape[2:]
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"data.size=[{height},{width}]: model=lenet reads images of at least "
                f"{MIN_SIDE}x{MIN_SIDE} pixels; a digit has 28x28"
            )
        return images.mean(1, keepdim=True)
