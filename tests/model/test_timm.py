"""timm's networks by name, compared with timm's forward pass."""

import pytest
import timm
import torch

from pipeline.errors import UserError
from pipeline.model.classes import list_imagenet_classes
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.timm import Timm
from pipeline.model.torchvision import select_classes


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
    with pytest.raises(UserError, match="a transformer gives tokens"):
        Timm("vit_tiny_patch16_224", None).body()


def test_no_network_is_said_with_the_remedy(monkeypatch):
    def fails(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(UserError, match=r"could not be had \(ConnectionError.*model.weights=FILE"):
        Timm("resnet18").load()
