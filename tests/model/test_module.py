"""model=module: networks of anybody's by name, which are the module, and none that a file names."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pipeline
from pipeline.engine import checkpoint
from pipeline.engine.named_functions import hash_function
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.importing import ALLOWED, allow
from pipeline.model.module import Module
from pipeline.model.torchvision import select_classes
from tests.conftest import Cli

CPU = torch.device("cpu")
SOURCE = """
from pathlib import Path

import torch
from torch import nn

Path("was_run").touch()


class Net(nn.Module):
    def __init__(self, classes=3, relu=True):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.act = nn.ReLU() if relu else nn.Identity()
        self.fc = nn.Linear(12, classes)
        self.register_buffer("gain", torch.full((1,), 2.0), persistent=False)

    def forward(self, x):
        maps = self.act(self.block(self.first(x * self.gain)))
        return {"aux": maps, "logits": self.fc(maps.mean((2, 3)))}


def functional():
    net = Net(relu=False)
    net.forward = lambda x: net.fc(net.block(net.first(x)).relu().mean((2, 3)))
    return net


class Between(Net):
    def forward(self, x):
        return self.fc(self.act(self.block(self.first(x) * 2)).mean((2, 3)))


def chain():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def grey():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class ToGrey(nn.Module):
    def forward(self, x):
        return (x * torch.tensor([0.5, 0.25, 0.25])[:, None, None]).sum(1, keepdim=True)


def own_grey():
    return nn.Sequential(ToGrey(), *grey())


def number():
    return 3


def fails():
    return {}["key"]
"""
NORMALIZED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32}
CARD = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "recipe": "own"}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's in the current folder, from which it is imported."""
    (tmp_path / "mynets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ALLOWED, "[]")
    yield
    sys.modules.pop("mynets", None)


def build(of: str = "mynets:Net", **options: object) -> Module:
    allow(of, options.get("arguments"))  # type: ignore[arg-type]
    return Module(of, **{**NORMALIZED, **options})  # type: ignore[arg-type]


def whole(builder: Module) -> Classifier:
    body, head, classes = builder.load()
    assert head is not None
    return Classifier(body, head, classes, builder.last, builder.below).eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("of", ["mynets:Net", "mynets.py:Net", "mynets:chain"])
def test_the_network_is_the_module(of: str) -> None:
    mynets = importlib.import_module("mynets")
    builder, x = build(of), images()
    net = whole(builder)
    module = getattr(mynets, of.rpartition(":")[2])().eval()
    with torch.no_grad():
        given = module(x)
        logits = given["logits"] if isinstance(given, dict) else given
        answer = net(x, at=("last", "below"))
        torch.testing.assert_close(answer.logits, logits)
        maps, fc = answer.activations["last"], list(module.modules())[-1]
        if of != "mynets:chain":
            fc = module.fc
        cam = maps.mean((2, 3)) @ net.class_weights.T + fc.bias
        torch.testing.assert_close(cam, logits, rtol=1e-4, atol=1e-5)
        few = Classifier(net.body, select_classes(net.head, [2, 0]), "ab", net.last).eval()
        torch.testing.assert_close(few(x).logits, logits[:, [2, 0]])
        assert few.class_weights.shape[0] == 2
    assert builder.known == ("class 0", "class 1", "class 2")
    assert builder.weights == "built"


@pytest.mark.parametrize("given", [0.5, (0.5,), (0.5, 0.5, 0.5)])
def test_a_network_of_grey_images_reads_the_luma(given: Any) -> None:
    builder = build("mynets:grey", mean=given, std=given)
    assert builder.mean == builder.std == (0.5, 0.5, 0.5)
    net, mynets = whole(builder), importlib.import_module("mynets")
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.no_grad():
        answer = net((pixels - 0.5) / 0.5, at=("last",))
        torch.testing.assert_close(answer.logits, mynets.grey()((luma - 0.5) / 0.5))
    assert answer.activations["last"].shape == (2, 6, 8, 8)
    own = build("mynets:own_grey", mean=given, std=given)
    with torch.no_grad():  # reads colour, though its first convolution has one channel
        torch.testing.assert_close(whole(own)(pixels).logits, mynets.own_grey()(pixels))
    with pytest.raises(UserError, match=r"model.mean=\[0.1, 0.2\]: expected a number for each of"):
        build("mynets:grey", mean=(0.1, 0.2))


def test_grey_networks_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    run = ("+experiment=explain", f"images={tmp_path / 'a.png'}", "model=module",
           "model.of=mynets:grey", "model.size=32", "saliency=cam")  # fmt: skip
    assert cli(*run, "model.mean=[0.5]", "model.std=0.5") == 0
    assert cli(*run) == 2


def test_a_functional_relu_before_the_mean_is_read_as_the_head_does() -> None:
    net, x = whole(build("mynets:functional")), images()
    with torch.no_grad():
        answer = net(x, at=("last",))
        maps = answer.activations["last"]
        assert maps.min() >= 0
        bias = net.body.get_submodule("fc").bias
        cam = maps.mean((2, 3)) @ net.class_weights.T + bias
        torch.testing.assert_close(cam, answer.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of", ["mynets:Net", "mynets:chain"])
def test_a_new_head_reads_the_last_feature_maps(of: str) -> None:
    builder, x = build(of), images()
    own = whole(builder)
    with torch.no_grad():
        expected = own(x, at=("last",)).activations["last"]
    body = builder.features(builder.load()[0])
    last = "fc." if of == "mynets:Net" else "6."
    frozen = {name for name, part in body.named_parameters() if not part.requires_grad}
    assert frozen == {f"{last}weight", f"{last}bias"}  # behind the feature maps
    _, channels = builder.body()
    net = Classifier(body, MeanLinear(channels, 2), "ab", builder.last, builder.below).eval()
    answer = net(x, at=("last",))
    torch.testing.assert_close(answer.activations["last"], expected)
    torch.testing.assert_close(net.features(x), expected)
    (gradients,) = torch.autograd.grad(answer.logits[:, 0].sum(), answer.activations["last"])
    cells = expected.shape[2] * expected.shape[3]
    weight = net.head.linear.weight[0][None, :, None, None] / cells
    torch.testing.assert_close(gradients, weight.expand_as(gradients))
    one = x[:1]
    replaced = net.behind("last", expected[:1] * 0.5, one)
    torch.testing.assert_close(replaced, net.head(expected[:1] * 0.5))
    assert not any(module._forward_hooks for module in body.modules())


def test_weights_of_a_file_with_a_prefix(tmp_path: Path) -> None:
    state = build().load()[0].state_dict()
    other = {name: tensor + 1 for name, tensor in state.items()}
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in other.items()},
               "classes": ["a", "b", "c"]}  # fmt: skip
    torch.save(wrapped, tmp_path / "w.pth")
    builder = build(weights=str(tmp_path / "w.pth"))
    body, _, classes = builder.load()
    assert all(torch.equal(body.state_dict()[name], tensor) for name, tensor in other.items())
    assert classes == ("a", "b", "c")
    assert "the prefix 'module.' of" in " ".join(builder.notes())
    torch.save({"first.0.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"do not fit mynets:Net: .* it needs are missing"):
        build(weights=str(tmp_path / "w.pth")).load()


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("mynets", "expected what makes the network, as model.of=mypackage"),
        ("nowhere:build", "nowhere cannot be imported .ModuleNotFoundError"),
        ("nowhere.py:build", "no such file"),
        ("mynets:nothing", "mynets has no 'nothing'"),
        ("mynets:SOURCE", "mynets has no 'SOURCE'"),
        ("mynets:number", "gives a int, expected a torch.nn.Module"),
        ("mynets:fails", "failed: KeyError: 'key'"),
    ],
)
def test_clear_errors(of: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(of).load()


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"give\s+model.mean=\[0.485"):
        _ = build(mean=None).mean
    with pytest.raises(UserError, match=r"model.of is missing: give model.of="):
        Module().load()
    with pytest.raises(UserError, match="2 names, but mynets:Net gives 3 logits"):
        _ = build(classes=("a", "b")).known
    with pytest.raises(UserError, match=r"gives 3 logits, for 4 classes; model.arguments="):
        build().own(4)
    with pytest.raises(UserError, match=r"layer 'below': .* name it: model.below=NAME"):
        whole(build("mynets:Between"))(images(), at=("below",))
    with pytest.raises(UserError, match="last='stem': no such layer runs"):
        _ = build(last="stem").load()
    assert build(arguments={"classes": 5}).own(5)[1](build(arguments={"classes": 5}).load()[0](
        images())).shape == (2, 5)  # fmt: skip


# -- what a file names is not called


def save(folder: Path, **options: Any) -> Path:
    builder = build(**options)
    node = {"_target_": "pipeline.model.module.Module", "of": builder.of, "weights": "built",
            "arguments": builder.arguments, **builder.recorded()}  # fmt: skip
    checkpoint.save(folder, whole(builder), node, CARD)
    return folder


def test_a_checkpoint_gives_the_same_network(tmp_path: Path) -> None:
    folder, x = save(tmp_path / "net"), images()
    loaded = checkpoint.load(folder, CPU).network
    with torch.no_grad():
        expected = whole(build())(x).logits  # with gain, which is not in the file
        torch.testing.assert_close(loaded(x).logits, expected)
    assert loaded.last == "act"


def test_a_function_that_only_a_file_names_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "net", arguments={"classes": 4})
    (tmp_path / "was_run").unlink()
    sys.modules.pop("mynets")
    for allowed in ("[]", json.dumps(['["mynets:Net", {}]', '["mynets:chain", {"classes": 4}]'])):
        monkeypatch.setenv(ALLOWED, allowed)
        for call in (lambda: checkpoint.load(folder, CPU), lambda: pipeline.load(folder)):
            with pytest.raises(UserError, match=(
                r"card.json: model.of=mynets:Net: refused; .* give model=module "
                r"model.of=mynets:Net 'model.arguments={classes:4}'")):  # fmt: skip
                call()
        assert checkpoint.fingerprint(folder)  # reads the source, and runs nothing
        assert not (tmp_path / "was_run").exists()
    allow("mynets:Net", {"classes": 4})
    assert checkpoint.load(folder, CPU).classes[3] == "class 3"
    assert (tmp_path / "was_run").exists()


def test_load_takes_the_module_the_function_or_its_name(tmp_path: Path) -> None:
    folder, x = save(tmp_path / "net"), images()
    expected = whole(build())(x).logits.detach()
    Net = importlib.import_module("mynets").Net
    module = Net()
    nn.init.zeros_(module.fc.weight)
    for model in (module, Net, lambda: module, "mynets:Net", "mynets.py:Net"):
        loaded = pipeline.load(folder, model=model, device="cpu")
        torch.testing.assert_close(loaded.trained.network(x).logits, expected)
    assert not module.fc.weight.any()  # it is copied
    with pytest.raises(UserError, match=r"the run called it with .'classes': 4"):
        pipeline.load(save(tmp_path / "four", arguments={"classes": 4}), model="mynets:Net")


def test_a_module_for_a_network_of_this_project_is_refused(tmp_path: Path) -> None:
    from pipeline.model.small import Small

    body, channels = Small().body()
    network = Classifier(body, MeanLinear(channels, 2), "ab")
    checkpoint.save(tmp_path, network, {"_target_": "pipeline.model.small.Small"}, CARD)
    with pytest.raises(UserError, match=r"model=: its network is one of this project"):
        pipeline.load(tmp_path, model=nn.Identity())


def test_the_source_is_part_of_what_a_checkpoint_computes(tmp_path: Path) -> None:
    node = {"_target_": "pipeline.model.module.Module", "of": "nets/mine.py:build"}
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/mine.py").write_text("import helper\n")
    (tmp_path / "nets/helper.py").write_text("x = 1\n")
    assert set(hash_function(node)) == {"mine.py", "helper.py"}
    assert hash_function({"_target_": "pipeline.model.small.Small"}) == {}


# -- the command line


def test_the_command_line_trains_explains_and_asks_for_the_name(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("model=module", "model.of=mynets.py:Net", "model.arguments={classes: 2}",
             "model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]", "model.size=32")  # fmt: skip
    data = ("data=folder", f"data.root={folder_of_images}", "runtime.workers=1")
    stages = "stages=[train,explain,localize,evaluate]"
    for head in ("own", "new"):
        assert cli("+experiment=cam", *model, *data, stages, f"train.head={head}",
                   "train.epochs=2") == 0  # fmt: skip
        card = json.loads(Path("outputs/latest/stages/train/card.json").read_text())
        assert card["size"] == [32, 32]
        assert card["model"]["last"] == "act"
        assert card["head"] == ("own" if head == "own" else "mean_linear")
    checkpoint_given = f"checkpoint={Path('outputs/latest').resolve()}"
    Path("outputs/explain").rename("elsewhere")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # as in another process
        patch.setenv(ALLOWED, "[]")
        predict = ("+experiment=predict", checkpoint_given, f"images={folder_of_images}/val/red")
        stages = "stages=[explain,localize]"
        assert cli(*predict, stages) == 2
        assert "model.of=mynets.py:Net: refused" in capsys.readouterr().err
        assert cli(*predict, stages, "model=module", "model.of=mynets:chain") == 2
        assert "is that of model.of=mynets.py:Net" in capsys.readouterr().err
        assert cli(*predict, stages, *model[:3]) == 0


def test_boxes_are_predicted_with_its_own_head_without_any_earlier_run(
    cli: Cli, folder_of_images: Path
) -> None:
    assert cli("+experiment=predict", f"images={folder_of_images}/val/red", "model=module",
               "model.of=mynets.py:Net", "model.arguments={classes: 2}", "model.classes=[red,blue]",
               "model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]", "model.size=32",
               "runtime.workers=1") == 0  # fmt: skip
    latest = Path("outputs/latest")
    assert json.loads((latest / "stages/train/card.json").read_text())["recipe"] == "own"
    predictions = json.loads((latest / "predictions.json").read_text())
    assert [category["name"] for category in predictions["categories"]] == ["red", "blue"]
    assert {box["image_id"] for box in predictions["annotations"]} == {
        image["id"] for image in predictions["images"]
    }
    assert len(predictions["images"]) == 4
