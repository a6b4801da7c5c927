"""Max-sensitivity against captum and Quantus, with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from captum.metrics import sensitivity_max
from torch import Tensor

from pipeline.audit.max_sensitivity import MaxSensitivity, draw_noise, measure_sensitivity
from pipeline.errors import UserError
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradient import Gradient
from tests.audit.networks import small
from tests.audit.test_composite import Logits

SAMPLES, RADIUS = 5, 0.1
METHODS = [GradCAM(), Gradient()]


def start(method: Any) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """Maps of images and classes, the images, the classes."""
    network: Any = small()
    torch.manual_seed(1)
    images = torch.randn(3, 3, 24, 32)
    with torch.no_grad():
        classes = network(images).logits.argmax(1)

    def explain(some: Tensor, of: Tensor) -> Tensor:
        return method(network, some, lambda _: of[:, None]).maps[:, 0].detach()

    return explain, images, classes


def noise_of(images: Tensor) -> Tensor:
    """The noise of each draw and image, [samples, b, c, H, W]."""
    generators = [np.random.default_rng(seed) for seed in range(len(images))]
    return torch.stack([draw_noise(images, generators) for _ in range(SAMPLES)])


def measured(explain: Any, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    return measure_sensitivity(
        lambda some: explain(some, classes),
        images, torch.full((3, 1, 1), RADIUS), range(len(images)), SAMPLES,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_it_is_captums(method: Any) -> None:
    explain, images, classes = start(method)
    found = measured(explain, images, classes)
    noise = noise_of(images).transpose(0, 1).flatten(0, 1)  # captum repeats each image

    def attribute(inputs: Any, target: Tensor) -> Any:
        # captum gives the unchanged images as a tuple, and wants one back.
        is_single = isinstance(inputs, Tensor)
        return explain(inputs, target) if is_single else (explain(inputs[0], target),)

    wanted = sensitivity_max(
        attribute, images, perturb_func=lambda inputs: inputs + noise * RADIUS,
        n_perturb_samples=SAMPLES, target=classes,
    )  # fmt: skip
    np.testing.assert_allclose(found["max_sensitivity"], wanted, rtol=1e-4)
    assert wanted.min() > 1e-3, "a test that tells nothing"


def test_it_is_quantus() -> None:
    explain, images, classes = start(Gradient())
    found = measured(explain, images, classes)
    draws = iter(noise_of(images).numpy())

    def perturb(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        return arr + next(draws).reshape(arr.shape) * RADIUS

    def theirs(model: Any, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return explain(torch.as_tensor(inputs), torch.as_tensor(targets))[:, None].numpy()

    metric = quantus.MaxSensitivity(nr_samples=SAMPLES, perturb_func=perturb, normalise=False,
                                    abs=False, disable_warnings=True)  # fmt: skip
    arrays = {"x_batch": images.numpy(), "y_batch": classes.numpy(), "a_batch": None}
    wanted = metric(model=Logits(small(), images), **arrays, explain_func=theirs, device="cpu",
                    channel_first=True)  # fmt: skip
    np.testing.assert_allclose(found["max_sensitivity"], wanted, rtol=1e-4)


def test_the_worst_map_is_that_of_the_largest_change() -> None:
    explain, images, classes = start(Gradient())
    found = measured(explain, images, classes)
    before = explain(images, classes)
    maps = torch.stack([explain(images + draw * RADIUS, classes) for draw in noise_of(images)])
    moved = (maps - before).flatten(2).norm(dim=2) / before.flatten(1).norm(dim=1)
    torch.testing.assert_close(found["max_sensitivity"].float(), moved.amax(0))
    torch.testing.assert_close(found["mean_sensitivity"].float(), moved.mean(0))
    for n, draw in enumerate(moved.argmax(0).tolist()):
        torch.testing.assert_close(found["worst"][n], maps[draw, n])
    assert ((noise_of(images).abs() <= 1) & (noise_of(images) != 0)).all()


def test_a_map_of_zeros_that_stays_one_is_not_sensitive() -> None:
    found = measured(lambda some, _: torch.zeros(len(some), 4, 4), torch.rand(2, 3, 8, 8),
                     torch.zeros(2))  # fmt: skip
    assert found["max_sensitivity"].tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"radius": 0.0}, {"radius": 2.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name}="):
        MaxSensitivity(**wrong)
