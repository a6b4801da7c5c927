"""Tensors of files fitted to networks: prefixes, heads of other kinds, names of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classes import are_wnids, list_imagenet_classes, load_wnids
from pipeline.model.classifier import Classifier
from pipeline.model.pretrained import find_prefix
from pipeline.model.timm import Timm
from pipeline.model.torchvision import Torchvision

NAME = "squeezenet1_1"
HEAD = "classifier.1"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The weights of a network with a head of three classes."""
    torch.manual_seed(0)
    return dict(torchvision.models.squeezenet1_1(num_classes=3).state_dict())


def builder(tmp_path: Path, content: object, **options: object) -> Torchvision:
    torch.save(content, tmp_path / "mine.pth")
    return Torchvision(NAME, str(tmp_path / "mine.pth"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "_orig_mod.", "network.", "net.", "backbone.", "model.module.",
     "module._orig_mod.", "model.backbone.", "encoder_q."],
)  # fmt: skip
def test_prefixes_are_left_out_and_said(
    state: dict[str, Tensor], tmp_path: Path, prefix: str
) -> None:
    content = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    ours = builder(tmp_path, {"state_dict": {**content, "criterion.weight": torch.ones(3)}})
    _, head, known = ours.load()
    assert head is not None
    assert torch.equal(head.conv.weight, state[f"{HEAD}.weight"])  # type: ignore[union-attr, arg-type]
    assert known == ours.known == ("class 0", "class 1", "class 2")
    notes = ours.notes()
    assert "mine.pth: the weights are those under 'state_dict'" in notes
    assert f"mine.pth: the prefix {prefix!r} of 52 names is left out" in notes
    assert any("1 tensor ('criterion.weight') outside" in note for note in notes)


def test_two_networks_in_a_file() -> None:
    wanted = ["conv.weight", "fc.weight"]
    both = [f"{prefix}{name}" for prefix in ("model.", "ema.") for name in wanted]
    assert find_prefix(both, wanted) == "model."
    with pytest.raises(UserError, match=r"2 times, under student\., teacher\.: save the tensors"):
        find_prefix([f"{p}{n}" for p in ("student.", "teacher.") for n in wanted], wanted)
    assert find_prefix([*wanted, *both], wanted) == ""
    assert find_prefix(["a", "b.c"], wanted) == ""


def logits(ours: Torchvision, images: Tensor) -> Tensor:
    body, head, known = ours.load()
    assert head is not None
    with torch.no_grad():
        answer: Tensor = Classifier(body, head, known).eval()(images).logits
    return answer


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(512, 2),
        nn.Sequential(nn.Dropout(), nn.Linear(512, 2)),
        nn.Linear(512, 2, bias=False),
    ],
)
def test_a_layer_in_place_of_the_head_is_kept(tmp_path: Path, layer: nn.Module) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=2).eval()
    network.fc = layer
    network.eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    ours = Torchvision("resnet18", str(tmp_path / "w.pth"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(logits(ours, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 2)), "4 tensors"),
        (nn.Linear(512, 1), "has a single row"),
        (nn.Identity(), "it has no head under fc"),
    ],
)
def test_another_head_is_dropped_and_said(tmp_path: Path, layer: nn.Module, said: str) -> None:
    network = torchvision.models.resnet18(num_classes=2)
    network.fc = layer
    torch.save(network.state_dict(), tmp_path / "w.pth")
    ours = Torchvision("resnet18", str(tmp_path / "w.pth"))
    body, head, known = ours.load()
    assert (head, known, ours.known) == (None, (), ())
    assert torch.equal(body.conv1.weight, network.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert not any(tensor.is_meta for tensor in body.state_dict().values())
    assert said in ours.notes()[-1]
    assert ("it is dropped" in ours.notes()[-1]) != isinstance(layer, nn.Identity)


def test_a_head_beside_the_backbone_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    content = {f"backbone.{name}": v for name, v in state.items() if not name.startswith(HEAD)}
    ours = builder(tmp_path, {**content, "head.weight": torch.ones(3, 512)})
    assert ours.load()[1] is None
    assert any("1 tensor ('head.weight') outside" in note for note in ours.notes())
    bare = {name.removeprefix("backbone."): tensor for name, tensor in content.items()}
    assert builder(tmp_path, {**bare, "head.weight": torch.ones(3, 512)}).load()[1] is None


@pytest.mark.parametrize(("prefix", "layer"), [("backbone.", "fc"), ("0.", "classifier.1"),
                                               ("", "head")])  # fmt: skip
def test_a_head_beside_the_backbone_is_adopted_where_it_fits(
    tmp_path: Path, prefix: str, layer: str
) -> None:
    network = torchvision.models.resnet18(num_classes=2)
    body = {f"{prefix}{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    head = {f"{layer}.weight": torch.rand(3, 512), f"{layer}.bias": torch.rand(3)}
    path = tmp_path / "w.pth"

    def load(tensors: dict[str, Tensor]) -> Torchvision:
        torch.save(tensors, path)
        return Torchvision("resnet18", str(path))

    ours = load({**body, **head, "criterion.weight": torch.ones(3)})
    loaded = ours.load()[1]
    if prefix or layer != "fc":
        assert any(f"the layer '{layer}' beside resnet18, 3 rows of 512" in n for n in ours.notes())
    assert loaded is not None
    assert torch.equal(loaded.linear.weight, head[f"{layer}.weight"])  # type: ignore[union-attr, arg-type]
    # Not where another layer, a normalization or a single row tells that it is another head.
    for more in ({"projection.weight": torch.rand(512, 512)}, {"bn.running_mean": torch.ones(512)},
                 {f"{layer}.weight": torch.rand(1, 512)}):  # fmt: skip
        assert load({**body, **head, **more}).load()[1] is None


def test_names_of_rows(state: dict[str, Tensor], tmp_path: Path) -> None:
    names = ("cat", "dog", "owl")
    file = {"state_dict": state, "class_to_idx": {"owl": 2, "cat": 0, "dog": 1}}
    assert builder(tmp_path, file).known == names
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n", encoding="utf-8")
    (tmp_path / "names.json").write_text(json.dumps({"owl": 2, "cat": 0, "dog": 1}))
    for given in (names, str(tmp_path / "names.txt"), str(tmp_path / "names.json")):
        assert builder(tmp_path, state, classes=given).known == names
    with pytest.raises(UserError, match=r"model.classes: 2 names, .* a head of 3 classes; give"):
        _ = builder(tmp_path, state, classes=("cat", "dog")).known
    with pytest.raises(UserError, match=r"model.classes=none.txt: cannot be read"):
        _ = builder(tmp_path, state, classes="none.txt").known
    with pytest.raises(UserError, match=r"model.weights=imagenet is none: give model.weights="):
        Torchvision(NAME, classes=("cat", "dog"))
    odd = builder(tmp_path, {**file, "class_to_idx": {"cat": 0, "dog": 1}})
    assert odd.known == ("class 0", "class 1", "class 2")
    assert any("names 2 classes for a head of 3: not used" in note for note in odd.notes())


def test_weights_of_another_network_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"module.{name}": v for name, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match="those of torchvision's squeezenet1_1: model=mobilenet_v2 "
    ):
        Torchvision("resnet18", str(tmp_path / "w.pth")).load()


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_timm_keeps_heads_of_other_classes(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=4).eval()
    content = {"state_dict": whole.state_dict(), "epoch": 3, "arch": name, "version": 2}
    torch.save(content, tmp_path / "w.pth")
    ours = Timm(name, str(tmp_path / "w.pth"), ("a", "b", "c", "d"))
    body, head, known = ours.load()
    assert known == ours.known == ("a", "b", "c", "d")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        answer = Classifier(body, head, known, ours.last).eval()(images).logits
        torch.testing.assert_close(answer, whole(images), rtol=1e-4, atol=1e-5)
    whole.reset_classifier(0)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    assert Timm(name, str(tmp_path / "w.pth")).load()[1:] == (None, ())


def test_a_name_for_two_rows_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"several rows 'red' \(1 of 3 names occur more than once"):
        _ = builder(tmp_path, state, classes=("red", "blue", "red")).known


def test_ids_of_imagenet_are_rows_of_its_head() -> None:
    assert are_wnids(["n01440764", "n03888257"])
    assert not are_wnids(["n01440764", "kite"])
    rows = load_wnids()
    assert rows is not None
    assert (rows["n01440764"], rows["n03888257"]) == (0, 701)  # tench, parachute
    assert len(rows) == 1000
    assert list_imagenet_classes()[0] == "tench"
    assert list_imagenet_classes()[701] == "parachute"
