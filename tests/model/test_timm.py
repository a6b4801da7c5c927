"""timm's networks by name, compared with timm's forward pass."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.engine import checkpoint
from pipeline.errors import UserError
from pipeline.model.classes import list_imagenet_classes
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.timm import Timm, find_parts
from pipeline.model.torchvision import select_classes
from pipeline.ops.hashing import hash_file


def images(side=64):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "side", "gap"),
    [("resnet18", 64, True), ("mobilenetv3_small_100", 64, False),
     ("vit_tiny_patch16_224", 224, False)],
)  # fmt: skip
def test_logits_are_timm_s(name, side, gap, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    whole.get_classifier().weight.data.normal_()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    builder = Timm(name, str(tmp_path / "w.pth"))
    body, head, known = builder.load()
    assert known == list_imagenet_classes() == builder.known
    assert isinstance(head, MeanLinear) == gap
    net = Classifier(body, head, known, builder.last, builder.below).eval()
    x = images(side)
    with torch.no_grad():
        expected = whole(x)
        answer = net(x, at=("last",))
        torch.testing.assert_close(answer.logits, expected, rtol=1e-4, atol=1e-5)
        rows = [7, 3, 500]
        few = Classifier(body, select_classes(head, rows), "abc", builder.last).eval()
        torch.testing.assert_close(few(x).logits, expected[:, rows], rtol=1e-4, atol=1e-5)
    assert answer.activations["last"].ndim == 4
    # What a checkpoint is rebuilt from has the same names and shapes.
    parts = (builder.body()[0], few.head) if gap else builder.own(3)
    again = Classifier(parts[0], parts[1], "abc")
    shapes = {name: tensor.shape for name, tensor in few.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes


def test_layers_have_timm_s_names():
    builder = Timm("resnet18", None)
    body, channels = builder.body()
    net = Classifier(body, MeanLinear(channels, 2), "ab").eval()
    activations = net(images(), at=("layer3.1.conv2", "last")).activations
    assert activations["layer3.1.conv2"].shape == (2, 256, 4, 4)
    assert activations["last"].shape == (2, 512, 2, 2)


def test_clear_errors(tmp_path):
    with pytest.raises(
        UserError, match=r"model.name=resnet81: timm has no such network; near.*resn"
    ):
        Timm("resnet81")
    with pytest.raises(UserError, match=r"model.weights=.*none.pth: no such file"):
        Timm("resnet18", str(tmp_path / "none.pth"))


def test_a_new_head_of_a_transformer_reads_its_tokens_as_a_grid():
    builder = Timm("vit_tiny_patch16_224", None)
    body, channels = builder.body()
    assert channels == 192
    net = Classifier(body, MeanLinear(channels, 3), "abc", builder.last, builder.below).eval()
    x = images(224)
    tokens: dict[str, torch.Tensor] = {}
    layer = body.get_submodule("blocks.11.norm1")
    handle = layer.register_forward_hook(lambda m, i, output: tokens.update(last=output))
    with torch.no_grad():
        answer = net(x, at=("last",))
        handle.remove()
        grid = tokens["last"][:, 1:].mT.reshape(2, 192, 14, 14)
        torch.testing.assert_close(answer.activations["last"], grid)
        cam = torch.einsum("ck,bkhw->bchw", net.class_weights, grid)
        logits = cam.mean((2, 3)) + net.head.bias
        torch.testing.assert_close(answer.logits, logits, rtol=1e-4, atol=1e-5)
    trained = {name for name, part in body.named_parameters() if part.requires_grad}
    assert "blocks.11.norm1.weight" in trained
    assert not {"norm.weight", "blocks.11.attn.qkv.weight"} & trained
    with torch.device("meta"):
        assert builder.body()[0](torch.zeros(1, 3, 224, 224)).shape == (1, 192, 14, 14)


def test_no_network_is_said_with_the_remedy(monkeypatch):
    def fails(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(UserError, match=r"could not be had \(ConnectionError.*model.weights=FILE"):
        Timm("resnet18").load()


@pytest.mark.parametrize(
    ("name", "side", "below", "norm"),
    [
        ("tf_efficientnet_lite0", 64, "blocks.5", None),
        ("convnext_atto", 64, "stages.3.blocks.0", "head.norm"),
        ("swin_tiny_patch4_window7_224", 224, "layers.3.blocks.0", None),
    ],
)
def test_gap_heads_and_the_layer_below_are_found_by_what_they_compute(name, side, below, norm):
    builder, x = Timm(name, None), images(side)
    find_parts.cache_clear()
    state = torch.get_rng_state()
    assert (builder.last, builder.below) == ("", below)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    body, head = builder.own(6)
    net = Classifier(body, head, "abcdef", builder.last, builder.below).eval()
    assert isinstance(head, MeanLinear) == (norm is None)
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=6).eval()
    with torch.no_grad():
        answer = net(x, at=("last", "below"))
        torch.testing.assert_close(answer.logits, whole(x), rtol=1e-4, atol=1e-5)
        maps = answer.activations["last"]
        assert maps.ndim == answer.activations["below"].ndim == 4
        # CAM's mean is the logit without the constant; a norm scales it for each image.
        cam = maps.mean((2, 3)) @ net.class_weights.T
        bias = whole.get_classifier().bias
        for logits, mean in zip(answer.logits - bias, cam, strict=True):
            pair = torch.stack((logits, mean)).double()
            assert torch.corrcoef(pair)[0, 1] > 0.9999
    # A head for some classes gives their rows, and so does CAM.
    weights = net.class_weights.clone()
    few = Classifier(body, select_classes(head, [4, 1]), "ab").eval()
    torch.testing.assert_close(few.class_weights, weights[[4, 1]])
    # A new head reads maps of the same kind.
    again, channels = builder.body()
    new = Classifier(again, MeanLinear(channels, 2), "ab", builder.last, builder.below).eval()
    assert new(x, at=("last", "below")).activations["last"].shape == maps.shape


def test_heads_that_are_no_gap_heads_have_no_class_weights():
    builder = Timm("mobilenetv3_small_100", None)
    net = Classifier(*builder.own(3), "abc", builder.last, builder.below)
    with pytest.raises(UserError, match="no global average pooling with one linear layer"):
        _ = net.class_weights
    assert builder.below == "blocks.4.1"


def test_a_checkpoint_of_version_0_1_loads(tmp_path):
    """Its tensors have the names that they had when heads were found by timm's attributes."""
    names = {"mobilenetv3_small_100": "own", "convnext_atto": "own", "resnet18": "mean_linear"}
    for name, kind in names.items():
        whole = timm.create_model(name, num_classes=3).eval()
        head = {}
        if kind == "mean_linear":
            fc = whole.get_classifier()
            head = {"head.linear.weight": fc.weight, "head.linear.bias": fc.bias}
        x = images()
        with torch.no_grad():
            expected = whole(x)
        channels = whole.num_features if head else None
        if head:
            whole.reset_classifier(0)
        state = {f"body.{key}": value for key, value in whole.state_dict().items()} | head
        folder = tmp_path / name
        folder.mkdir()
        save_file({key: value.contiguous() for key, value in state.items()},
                  folder / "weights.safetensors")  # fmt: skip
        card = {
            "format": 1, "head": kind, "channels": channels, "classes": ["a", "b", "c"],
            "model": {"_target_": "pipeline.model.timm.Timm", "name": name, "weights": None,
                      "classes": None},
            "fingerprint": hash_file(folder / "weights.safetensors"), "branches": {},
            "size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3,
        }  # fmt: skip
        (folder / "card.json").write_text(json.dumps(card))
        network = checkpoint.load(folder, torch.device("cpu")).network
        with torch.no_grad():
            torch.testing.assert_close(network(x).logits, expected, rtol=1e-4, atol=1e-5)
