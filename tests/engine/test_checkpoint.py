"""Checkpoints: the same network back, and nothing else let in."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.engine import checkpoint
from pipeline.engine.methods import parse_targets
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, ConvMean, MeanLinear
from pipeline.model.torchvision import MEAN, STD, Torchvision

CPU = torch.device("cpu")
NODE = {
    "_target_": "pipeline.model.torchvision.Torchvision",
    "name": "squeezenet1_1",
    "weights": "/a/file/that/is/gone.pth",
    "stride": None,
}
CARD = {"size": [64, 96], "mean": list(MEAN), "std": list(STD), "recipe": "head"}


def network(head=MeanLinear, name="squeezenet1_1", classes=("cat", "dög", "cow")):
    torch.manual_seed(0)
    body, channels = Torchvision(name, None).body()
    return Classifier(body, head(channels, len(classes)), classes).eval()


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "train" / "0123"
    checkpoint.save(folder, network(), NODE, CARD)
    return folder


def change(folder, **fields):
    card = json.loads((folder / checkpoint.CARD).read_text())
    card.update(fields)
    gone = [name for name, value in card.items() if value is ...]
    for name in gone:
        del card[name]
    (folder / checkpoint.CARD).write_text(json.dumps(card))


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "mobilenet_v2"])
@pytest.mark.parametrize("head", [MeanLinear, ConvMean])
def test_round_trip_bit_for_bit(tmp_path, name, head):
    if name == "googlenet" and head is ConvMean:
        pytest.skip("once is enough for a network slow to build")
    net = network(head, name).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path, net, {**NODE, "name": name}, CARD)
    back = checkpoint.load(tmp_path, CPU)
    x = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    assert torch.equal(back.network(x).logits, net(x).logits)
    assert back.classes == ("cat", "dög", "cow")
    assert (back.size, back.mean, back.std) == ((64, 96), MEAN, STD)
    assert not back.network.training
    assert not any(p.requires_grad for p in back.network.parameters())
    assert not any(t.is_meta for t in back.network.state_dict().values())


def test_card_can_be_read_by_a_person(saved):
    text = (saved / checkpoint.CARD).read_text(encoding="utf-8")
    card = json.loads(text)
    assert card["model"] == {**NODE, "weights": None}
    assert card["classes"] == ["cat", "dög", "cow"]
    assert "dög" in text
    assert text.count("\n") > 10
    assert (card["head"], card["channels"], card["recipe"]) == ("mean_linear", 512, "head")


def test_a_moved_folder_loads(saved, tmp_path):
    before = checkpoint.fingerprint(saved)
    shutil.move(saved, tmp_path / "elsewhere")
    assert checkpoint.load(tmp_path / "elsewhere", CPU).classes == ("cat", "dög", "cow")
    assert checkpoint.fingerprint(tmp_path / "elsewhere") == before


def test_fingerprint_changes_with_what_is_computed(saved):
    first = checkpoint.fingerprint(saved)
    change(saved, recipe="other")
    assert checkpoint.fingerprint(saved) == first
    change(saved, classes=["dog", "cat", "cow"])
    second = checkpoint.fingerprint(saved)
    change(saved, size=[96, 96])
    assert len({first, second, checkpoint.fingerprint(saved)}) == 3


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(
        UserError, match=r"no checkpoint here; expected weights.safetensors and card"
    ):
        checkpoint.load(tmp_path, CPU)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ...}, "classes: Field required"),
        ({"fingerprint": ...}, "fingerprint: Field required"),
        ({"classes": "cat"}, "classes: Input should be a valid list, got 'cat'"),
        ({"classes": []}, "classes: List should have at least 1 item"),
        ({"size": [64]}, "size: List should have at least 2 items"),
        ({"size": [64, 0]}, "size.1: Input should be greater than 0, got 0"),
        ({"std": [1, 1, 0]}, "std.2: Input should be greater than 0"),
        ({"mean": ["a", 1, 1]}, "mean.0: Input should be a valid number"),
        ({"mean": [float("nan"), 1, 1]}, "mean.0: Input should be a finite number"),
        ({"channels": "512"}, "channels: Input should be a valid integer"),
        ({"channels": 64}, "head 'mean_linear' on 64 channels does not fit"),
        ({"head": "fc"}, "head 'fc' on 512 channels does not fit"),
        ({"format": 2}, "format 2, this version reads 1"),
        ({"model": []}, "model: Input should be a valid dictionary"),
        ({"model": {"name": "resnet18"}}, "_target_=None: refused"),
        ({"model": {**NODE, "weights": None, "name": "nope"}}, "model.name=nope: no such network"),
        ({"model": {**NODE, "weights": None, "depth": 3}}, "Torchvision has no 'depth'"),
    ],
)
def test_wrong_cards_are_refused(saved, fields, message):
    change(saved, **fields)
    with pytest.raises(UserError, match=r"card\.json|model\.name") as refused:
        checkpoint.load(saved, CPU)
    assert message in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\xff", "[" * 100_000])
def test_cards_that_are_none(saved, content):
    (saved / checkpoint.CARD).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"card\.json"):
        checkpoint.load(saved, CPU)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pipeline.model.torchvision.Path",
        "pipeline.model.torchvision.torch",
        "pipeline.model.weights.read_weights",
        "pipeline.model.torchvision.TransformInput",
        "pipeline.model.nowhere.Net",
        "pipeline.model..os.system",
        "pipeline.modelled.os",
        "pipeline.engine.store.Store",
        "subprocess.run",
        "",
        7,
    ],
)
def test_cards_name_this_project_s_models_only(saved, target, tmp_path):
    command = f"touch {tmp_path / 'ran'}"
    change(saved, model={"_target_": target, "command": command, "path": command})
    with pytest.raises(UserError, match=f"_target_={target}: refused"):
        checkpoint.load(saved, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", [0, 4, 100, 0.5, 0.9999])
def test_truncated_weights_are_refused(saved, part):
    path = saved / checkpoint.WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: part if part >= 1 else int(part * len(content))])
    with pytest.raises(UserError, match=r"weights.safetensors: not a whole file of safetensors"):
        checkpoint.load(saved, CPU)


def test_missing_weights_are_refused(saved):
    (saved / checkpoint.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"weights.safetensors: missing"):
        checkpoint.load(saved, CPU)


def test_weights_that_are_not_the_card_s_are_refused(saved):
    path = saved / checkpoint.WEIGHTS
    state = load_file(path)
    save_file({**state, "head.linear.bias": state["head.linear.bias"] + 1}, path)
    with pytest.raises(UserError, match=r"not the weights that card\.json was written with"):
        checkpoint.load(saved, CPU)
    save_file({k: v for k, v in state.items() if k != "head.linear.bias"}, path)
    with pytest.raises(
        UserError, match=r"1 of 52 tensors it needs are missing \(head.linear.bias\)"
    ):
        checkpoint.load(saved, CPU)
    save_file({**state, "head.linear.bias": torch.zeros(4)}, path)
    with pytest.raises(UserError, match=r"another shape \(head.linear.bias: \[4\], not \[3\]\)"):
        checkpoint.load(saved, CPU)


def test_save_refuses_a_card_that_load_would(tmp_path):
    with pytest.raises(UserError, match="size: Field required"):
        checkpoint.save(tmp_path, network(), NODE, {"mean": list(MEAN), "std": list(STD)})


def test_images_become_normalised_tensors(saved):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 5, 3), np.uint8)
    tensor = checkpoint.load(saved, CPU).tensor(np.stack(list(images)))
    wanted = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(tensor.numpy(), wanted, atol=1e-6)


def test_classes_are_in_unicode_form_nfc(saved):
    """Checkpoints of older versions have them as the disk of their data spelled them."""
    decomposed = unicodedata.normalize("NFD", "dög")
    change(saved, classes=["cat", decomposed, "cow"])
    assert checkpoint.load(saved, CPU).classes == ("cat", "dög", "cow")
    classes = checkpoint.read_card(saved)["classes"]
    assert parse_targets(decomposed, classes, True) == ["dög"]
    assert parse_targets(["dög", True], classes, True) == ["dög", "true"]


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 3), (0, 4, 4, 3)])
def test_pixels_are_standardised_in_the_layout_of_the_images(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = checkpoint.to_tensor(images, mean, std, CPU)
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    every_second = np.repeat(images, 2, 2)[:, :, ::2]
    assert torch.equal(checkpoint.to_tensor(every_second, mean, std, CPU), tensor)
