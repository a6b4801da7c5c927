"""Inspect of a network that knows ImageNet, on photographs: what the pictures stand for is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.engine import checkpoint
from pipeline.formats import photo
from pipeline.formats.files import to_file_name
from pipeline.plotting import grids as pictures
from pipeline.plotting.sheet import MARGIN, ROW, SMALL, TITLE
from pipeline.visualize import feature_maps as features
from pipeline.visualize.features import PATCH
from tests.conftest import Cli

LATEST = Path("outputs/latest")
FOUND = LATEST / "inspected"
CLASSES = ("golf ball", "parachute")


@pytest.fixture
def looked_into(cli: Cli, shared: Path) -> Path:
    """The sheets' folder, of a pretrained network at half its size."""
    weights = shared / "data/weights/mobilenet_v2_imagenet.pth"
    images = shared / "data/imagenette"
    if not weights.is_file() or not images.is_dir():
        pytest.skip("../shared/data has no imagenette, or no weights of MobileNetV2")
    assert cli("+experiment=inspect", "data=folder", f"data.root={images}", "data.size=112",
               "model=mobilenet_v2", f"model.weights={weights}", "train.head=own",
               "inspect.views=[classes,features,first_order]", 'inspect.classes=["golf ball",'
               "parachute]", "inspect.style=pretty", "inspect.steps=40", "inspect.rate=0.2",
               "inspect.layer=features.4", "inspect.maps=2", "inspect.images=48") == 0  # fmt: skip
    return FOUND


def test_pictures_of_a_network_that_knows_imagenet(looked_into: Path, shared: Path) -> None:
    trained = checkpoint.load(checkpoint.find(LATEST), torch.device("cpu"))
    root = shared / "data/imagenette"

    # An image made for a class is more of it, by the logit, than any photograph of that class.
    folders = dict(
        line.split(" ", 1)[::-1] for line in (root / "classes.txt").open().read().splitlines()
    )
    made = json.loads((looked_into / "classes.json").read_text())["images"]
    assert [one["name"] for one in made] == list(CLASSES)
    for one in made:
        files = sorted((root / "val" / folders[one["name"]]).iterdir())
        photos = np.stack([at_size(path) for path in files])
        with torch.no_grad():
            logits = trained.network(trained.tensor(photos)).logits[:, one["number"]]
        assert one["first"] < logits.max() < one["last"], one["name"]
        assert one["probability"] > 0.99
        alone = np.asarray(Image.open(looked_into / f"classes/{to_file_name(one['name'])}.png"))
        assert alone.shape == (112, 112, 3)

    # Nine patches of nine images, each what its box says.
    found = json.loads((looked_into / "features.json").read_text())
    sheet = np.asarray(Image.open(looked_into / "features.png")).astype(int)
    top = MARGIN + TITLE + 10 + 2 * (SMALL + 8) + ROW + 22  # of the first row's pictures
    strongest = found["maps"][0]["strongest"]
    assert len({one["image"] for one in strongest}) == 9
    assert [one["value"] for one in strongest] == sorted(
        (o["value"] for o in strongest), reverse=True
    )
    for n, one in enumerate(strongest):
        left, upper, right, lower = one["box"]
        assert (right - left, lower - upper) == tuple(found["receptive_field"][::-1])
        patch = features.crop_patch(
            at_size(root / one["image"]), (slice(upper, lower), slice(left, right))
        )
        y, x = (top + n // 3 * (PATCH + 3), MARGIN + n % 3 * (PATCH + 3))
        shown = sheet[y : y + PATCH, x : x + PATCH]
        assert np.abs(shown - pictures.resize_picture(patch, PATCH, PATCH)).mean() < 1, n

    # The line is the better, the nearer to the image.
    told = json.loads((looked_into / "first_order.json").read_text())["images"]
    for name in ("error_along", "error_random"):
        error = np.mean([one[name] for one in told], 0)
        assert error[0] < 0.5 * error[4] < error[-1], (name, error)


def at_size(path: Path) -> np.ndarray:
    return photo.read(path, at=(112, 112)).pixels
