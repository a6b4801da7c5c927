"""LeNet: the paper's sizes, any image, its own head from scratch, and the oracle in NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.mnist import Mnist
from pipeline.engine import checkpoint
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier
from pipeline.model.lenet import LeNet
from pipeline.saliency.gradient import Gradient
from tests.conftest import Cli
from tests.numpy_lenet import NumpyLeNet

LAYERS = {"c1": "body.c1", "c3": "body.c3", "c5": "head.c5", "f6": "head.f6",
          "output": "head.output"}  # fmt: skip


def random_network(**options: Any) -> Classifier:
    torch.manual_seed(0)
    model = LeNet(**options)
    body, head = model.own(10)
    return Classifier(body, head, "0123456789", model.last, model.below).eval()


def oracle(network: Classifier, **options: str) -> NumpyLeNet:
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    weights = {name: state[f"{layer}.weight"] for name, layer in LAYERS.items()}
    biases = {f"{name}_bias": state[f"{layer}.bias"] for name, layer in LAYERS.items()}
    return NumpyLeNet({**weights, **biases}, **options)


def compare(network: Classifier, known: NumpyLeNet, pixels: np.ndarray) -> None:
    """Compare logits and signed gradient maps with NumPy's, `pixels` being [b, 28, 28, 3]."""
    model = LeNet()
    images = checkpoint.to_tensor(pixels, model.mean, model.std, torch.device("cpu"))
    classes = torch.arange(10).repeat(len(pixels), 1)
    ours = Gradient(channels="sum")(network, images, lambda logits: classes)
    for n, image in enumerate(pixels):
        digit = (image[..., 0] / 255 - model.mean[0]) / model.std[0]
        np.testing.assert_allclose(
            ours.logits[n].numpy(), known.forward(digit)["logits"], atol=1e-5, rtol=1e-5
        )
        for label in range(10):
            np.testing.assert_allclose(
                ours.maps[n, label].numpy(), known.slope(digit, label), atol=1e-5, rtol=0
            )


def grey_images(count: int) -> np.ndarray:
    """Return noise: no two values of a 2x2 square are equal, so that there is one maximum."""
    grey = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    return grey.repeat(3, 3)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_logits_and_gradients_are_those_of_the_oracle(activation: str, pooling: str) -> None:
    options = {"activation": activation, "pooling": pooling}
    network = random_network(**options)
    compare(network, oracle(network, **options), grey_images(3))


def test_the_gradient_of_the_oracle_is_that_of_its_score() -> None:
    """The oracle is checked by finite differences in float64."""
    known = oracle(random_network(activation="tanh", pooling="average"),
                   activation="tanh", pooling="average")  # fmt: skip
    rng = np.random.default_rng(1)
    digit, step = rng.normal(size=(28, 28)), 1e-5 * rng.normal(size=(28, 28))
    high, low = (known.forward(digit + sign * step)["logits"][7] for sign in (1, -1))
    np.testing.assert_allclose((known.slope(digit, 7) * step).sum(), (high - low) / 2, rtol=1e-6)


def test_sizes_are_those_of_the_paper() -> None:
    network = random_network()
    images = torch.zeros(2, 3, 28, 28)
    answer = network(images, at=("margin", "c1", "s2", "c3", "last"))
    sizes = {name: list(maps.shape[1:]) for name, maps in answer.activations.items()}
    assert sizes == {"margin": [1, 32, 32], "c1": [6, 28, 28], "s2": [6, 14, 14],
                     "c3": [16, 10, 10], "last": [16, 10, 10]}  # fmt: skip
    count = sum(tensor.numel() for name, tensor in network.named_parameters())
    # The paper's 60,000 and the 956 more of C3 where every map reads all six of S2.
    assert count == 61_706
    assert answer.logits.shape == (2, 10)


def test_background_and_strokes_are_scaled_as_in_the_paper() -> None:
    model = LeNet()
    black_and_white = np.array([[[[0] * 3, [255] * 3]]], np.uint8)
    scaled = checkpoint.to_tensor(black_and_white, model.mean, model.std, torch.device("cpu"))
    np.testing.assert_allclose(scaled[0, :, 0].numpy(), [[-0.1, 1.175]] * 3, atol=1e-6)


def test_larger_images_fit_and_smaller_ones_are_refused() -> None:
    network = random_network()
    assert network(torch.zeros(1, 3, 64, 48)).logits.shape == (1, 10)
    assert network(torch.zeros(1, 3, 12, 12)).logits.shape == (1, 10)
    with pytest.raises(UserError, match=r"data\.size=\[11,40\]: .*at least 12x12"):
        network(torch.zeros(1, 3, 11, 40))


def test_its_own_head_learns_from_scratch(cli: Cli, tmp_path: Path) -> None:
    command = ("model=lenet", "data.images=64", "data.val_images=8", "train.epochs=1",
               "data.size=28", "stages=[train,explain]", "saliency=guided_backprop")  # fmt: skip
    cards = {}
    for head, kind in (("own", "own"), ("auto", "mean_linear")):
        assert cli(*command, f"train.head={head}") == 0
        folder = (tmp_path / "outputs/latest/stages/train").resolve()
        card = json.loads((folder / "card.json").read_text())
        assert (card["head"], card["recipe"]) == (kind, "scratch")
        network = checkpoint.load(folder, torch.device("cpu")).network
        assert network(torch.zeros(1, 3, 28, 28)).logits.shape == (1, 10)
        cards[head] = card
    assert cli(*command, "train.head=own", "outputs=again") == 0
    (again,) = (tmp_path / "again/train").glob("*/card.json")
    same = json.loads(again.read_text())["fingerprint"] == cards["own"]["fingerprint"]
    assert same, "one seed, one network"


def test_cam_is_refused_of_its_own_head_before_training(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=cam", "model=lenet", "train.head=own", "data.size=28") == 2
    assert "it has no class weights, which CAM reads" in capsys.readouterr().err
    assert not (tmp_path / "outputs/train").exists()


def test_it_reads_digits_and_equals_the_oracle(cli: Cli, shared: Path, tmp_path: Path) -> None:
    """One epoch of half the digits is enough to know most; the whole recipe knows 98.75 %."""
    root = shared / "data/mnist"
    if not (root / "MNIST").is_dir():
        pytest.skip("no MNIST in ../shared: no digits to learn")
    assert cli("+experiment=lenet_mnist", f"data.root={root}", "stages=[train]", "train.epochs=1",
               "data.held_back=0.5", "train.batch=32", "train.warmup=0.2") == 0  # fmt: skip
    folder = (tmp_path / "outputs/latest/stages/train").resolve()
    trained = checkpoint.load(folder, torch.device("cpu"))
    assert trained.card["best"]["held_back_top1"] > 0.85
    data = Mnist(str(root))
    digits = np.stack([data.example("val", n).image for n in range(4)])
    # On a constant background all four of a square are the maximum, and rounding chooses one.
    pixels = np.maximum(digits, grey_images(4) // 16)
    compare(trained.network, oracle(trained.network), pixels)
