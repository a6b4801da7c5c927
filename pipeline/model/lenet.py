"""LeNet-5: the convolutional network that read digits.

    grey, margin    28 x 28 to 32 x 32, so that strokes at the border are seen whole
    C1, S2          6 maps of 5 x 5 filters, 28 x 28; subsampled to 14 x 14
    C3              16 maps of 5 x 5 filters, 10 x 10: the last feature maps
    S4, C5, F6      subsampled to 5 x 5; fully connected: 120, 84, and a logit a class

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 1998, section II.B. As it is built today: every map of C3 reads all of S2,
subsampling has no weights, the output is linear and not radial, and ReLU and maximum pooling take
the place of tanh and averages (`activation=tanh pooling=average` has those), for deconvnet and
guided backprop change the way back through ReLU alone.

The image's three colours are averaged to grey, so what comes back to each of them is a third of
the slope at the grey pixel, and their sum, `saliency=gradient_signed`, is that slope itself.
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

PAPER, INK = -0.1, 1.175  # what the paper scales background and strokes to: mean 0, variance 1
LEAST = 12  # pixels: C3 needs a 5 x 5 place to look at


@dataclass(frozen=True)
class LeNet(Builder):
    """`train.head=own` trains the fully connected head, otherwise it is one that CAM reads."""

    activation: Literal["relu", "tanh"] = "relu"
    pooling: Literal["max", "average"] = "max"

    std = (1 / (INK - PAPER),) * 3
    mean = (-PAPER / (INK - PAPER),) * 3
    last = ""
    below = "s2"
    has_own_head = True
    own_head_from_scratch = True  # its own head needs no weights to start from

    def body(self) -> tuple[nn.Sequential, int]:
        """The feature maps' part, with random weights, and its number of maps."""
        maps = nn.Sequential(
            OrderedDict(
                grey=Grey(),
                margin=nn.ConstantPad2d(2, PAPER),
                c1=nn.Conv2d(1, 6, 5),
                act1=self._activation(),
                s2=self._pooling(),
                c3=nn.Conv2d(6, 16, 5),
                act3=self._activation(),
            )
        )
        return maps, 16

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Body and fully connected head, with random weights."""
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
    """The mean of red, green and blue. Raises UserError where an image is too small for C3."""

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1 H W"]:
        height, width = images.shape[2:]
        if min(height, width) < LEAST:
            raise UserError(
                f"data.size=[{height},{width}]: model=lenet looks at images of at least "
                f"{LEAST}x{LEAST} pixels; a digit has 28x28"
            )
        return images.mean(1, keepdim=True)
