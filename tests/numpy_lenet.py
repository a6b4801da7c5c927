"""LeNet from scratch in NumPy, to teach and to check by: forward, then backward to the pixels.

One image, every step in sight, no autograd. `forward` keeps what each step gave; `slope` walks the
same steps from the last to the first and asks of each: if what you gave had changed a little, how
would the score have changed, and so, how does it with what you were given?

    convolution      y[o] = b[o] + sum_{c,i,j} w[o, c, i, j] x[c, . + i, . + j]
                     dx[c, . + i, . + j] += sum_o w[o, c, i, j] dy[o]
    fully connected  y = W x + b             dx = W^T dy
    ReLU             y = max(x, 0)           dx = dy where x > 0, else 0
    tanh             y = tanh(x)             dx = dy (1 - y^2)
    maximum of 2x2   y = the largest         dx = dy where it was, 0 at the other three
    mean of 2x2      y = their mean          dx = dy / 4 at all four

Where several of the 2x2 are equally large, as on an even background, any of them may be taken:
there the slope is not one number, and rounding decides. Everything is in float64.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE
1998; the network as in pipeline/model/lenet.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]
"""c1, c3: filters [out, in, 5, 5]; c5, f6, output: matrices [out, in]; with `_bias` each: [out]."""

MARGIN, BACKGROUND = 2, -0.1


class NumpyLeNet:
    def __init__(self, weights: Weights, activation: str = "relu", pooling: str = "max") -> None:
        self.weights = {name: np.asarray(one, np.float64) for name, one in weights.items()}
        self.activation = activation
        self.pooling = pooling

    def forward(self, digit: np.ndarray) -> dict[str, np.ndarray]:
        """Every step's result for a grey image [28, 28], scaled; `logits` [10] is the last."""
        w = self.weights
        seen = {}
        seen["margin"] = np.pad(digit[None], ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)),
                                constant_values=BACKGROUND)  # [1, 32, 32]  # fmt: skip
        seen["c1"] = convolve(seen["margin"], w["c1"], w["c1_bias"])  # [6, 28, 28]
        seen["act1"] = self.activate(seen["c1"])
        seen["s2"] = self.pool(seen["act1"])  # [6, 14, 14]
        seen["c3"] = convolve(seen["s2"], w["c3"], w["c3_bias"])  # [16, 10, 10]
        seen["act3"] = self.activate(seen["c3"])
        seen["s4"] = self.pool(seen["act3"])  # [16, 5, 5]
        seen["flat"] = seen["s4"].reshape(-1)  # [400]
        seen["c5"] = w["c5"] @ seen["flat"] + w["c5_bias"]  # [120]
        seen["act5"] = self.activate(seen["c5"])
        seen["f6"] = w["f6"] @ seen["act5"] + w["f6_bias"]  # [84]
        seen["act6"] = self.activate(seen["f6"])
        seen["logits"] = w["output"] @ seen["act6"] + w["output_bias"]  # [10]
        return seen

    def slope(self, digit: np.ndarray, label: int) -> np.ndarray:
        """d logit of `label` / d each pixel of the image: [28, 28]."""
        w, seen = self.weights, self.forward(digit)
        back: np.ndarray = np.zeros(len(seen["logits"]))
        back[label] = 1.0  # the score is this one logit
        back = w["output"].T @ back
        back = self.activate_back(back, seen["f6"])
        back = w["f6"].T @ back
        back = self.activate_back(back, seen["c5"])
        back = w["c5"].T @ back
        back = back.reshape(seen["s4"].shape)
        back = self.pool_back(back, seen["act3"])
        back = self.activate_back(back, seen["c3"])
        back = convolve_back(back, w["c3"])
        back = self.pool_back(back, seen["act1"])
        back = self.activate_back(back, seen["c1"])
        back = convolve_back(back, w["c1"])
        return back[0, MARGIN:-MARGIN, MARGIN:-MARGIN]  # the margin is no pixel of the image

    def activate(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) if self.activation == "relu" else np.tanh(x)

    def activate_back(self, back: np.ndarray, x: np.ndarray) -> np.ndarray:
        return back * (x > 0) if self.activation == "relu" else back * (1 - np.tanh(x) ** 2)

    def pool(self, x: np.ndarray) -> np.ndarray:
        four = quarters(x)
        return four.max(-1) if self.pooling == "max" else four.mean(-1)

    def pool_back(self, back: np.ndarray, x: np.ndarray) -> np.ndarray:
        four = np.zeros_like(quarters(x))
        if self.pooling == "max":
            largest = quarters(x).argmax(-1)  # the first of several
            np.put_along_axis(four, largest[..., None], back[..., None], -1)
        else:
            four[:] = back[..., None] / 4
        return from_quarters(four)


def convolve(x: np.ndarray, filters: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[in, H, W] to [out, H - 4, W - 4]: each filter at every place where it fits."""
    height, width = filters.shape[2:]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    y = np.zeros((len(filters), rows, columns)) + bias[:, None, None]
    for i in range(height):
        for j in range(width):
            shifted = x[:, i : i + rows, j : j + columns]
            y += np.tensordot(filters[:, :, i, j], shifted, axes=1)
    return y


def convolve_back(back: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """What each place was given, [in, H, W], from what it went to, [out, H - 4, W - 4]."""
    height, width = filters.shape[2:]
    _, rows, columns = back.shape
    x = np.zeros((filters.shape[1], rows + height - 1, columns + width - 1))
    for i in range(height):
        for j in range(width):
            x[:, i : i + rows, j : j + columns] += np.tensordot(filters[:, :, i, j].T, back, axes=1)
    return x


def quarters(x: np.ndarray) -> np.ndarray:
    """[c, H, W] to [c, H / 2, W / 2, 4]: the four values of each 2x2 square, row by row."""
    channels, height, width = x.shape
    squares = x.reshape(channels, height // 2, 2, width // 2, 2).swapaxes(2, 3)
    return squares.reshape(channels, height // 2, width // 2, 4)


def from_quarters(four: np.ndarray) -> np.ndarray:
    channels, height, width, _ = four.shape
    squares = four.reshape(channels, height, width, 2, 2).swapaxes(2, 3)
    return squares.reshape(channels, 2 * height, 2 * width)
