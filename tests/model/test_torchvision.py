"""torchvision's networks, split and compared with the original ones."""

import copy
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer

from pipeline.engine.checkpoint import to_tensor
from pipeline.errors import UserError
from pipeline.model import torchvision as ours
from pipeline.model.classes import list_imagenet_classes, match_classes
from pipeline.model.classifier import Classifier, ConvMean, MeanLinear
from pipeline.model.layouts import LAYOUTS
from pipeline.model.torchvision import (
    MEAN,
    STD,
    Torchvision,
    TransformInput,
    select_classes,
)
from pipeline.model.weights import read_weights

DATA = Path(__file__).parents[3] / "shared" / "data"
TESTED = [
    "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "squeezenet1_0",
    "squeezenet1_1", "vgg16", "googlenet", "densenet121",
]  # fmt: skip


def original(name, **extra):
    """Return torchvision's network, its batch statistics not being 0 and 1."""
    torch.manual_seed(0)
    if name == "googlenet":
        extra |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name == "vgg16":
        extra |= {"init_weights": False}
    network = getattr(torchvision.models, name)(weights=None, **extra).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                module.bias.uniform_(-0.1, 0.1)
    return network


def randomize(network):
    """Set random weights with which activations neither vanish nor explode; no head is zero."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0, module.in_features**-0.5, generator=generator)
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        with torch.no_grad():
            network.train()(images(96, 96))
    return network.eval()


def images(height, width, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def original_features(network, name, x):
    """Return the feature maps within torchvision's forward pass."""
    if name.startswith("densenet"):  # relu and pooling are functions there
        return torch.relu(network.features(x))
    kept: dict[str, torch.Tensor] = {}
    if name.startswith("mobilenet"):  # pooling too
        place = network.features
        handle = place.register_forward_hook(lambda m, args, out: kept.update(maps=out))
    else:
        place = network.classifier if name.startswith("squeezenet") else network.avgpool
        handle = place.register_forward_pre_hook(lambda m, args: kept.update(maps=args[0]))
    network(x)
    handle.remove()
    return kept["maps"]


@pytest.mark.parametrize("name", TESTED)
def test_maps_and_logits_are_torchvision_s(name, monkeypatch, tmp_path):
    network = original(name)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    if name == "vgg16":  # half a gigabyte: not through a file
        monkeypatch.setattr(ours, "_download_weights", lambda name: state)
        body, head, known = Torchvision(name).load()
    else:
        torch.save(state, tmp_path / "weights.pth")
        body, head, known = Torchvision(name, str(tmp_path / "weights.pth")).load()
    body.eval()
    for size in ((96, 96), (65, 129)):
        x = images(*size)
        with torch.no_grad():
            maps, wanted = body(x), original_features(network, name, x)
            close(maps, wanted)
            network_of_ours = Classifier(body, head, known).eval()
            close(network_of_ours(x).logits, network(x))
    assert maps.shape[1] == LAYOUTS[name].channels
    assert known == list_imagenet_classes()
    kinds = {"vgg16": nn.Sequential, "squeezenet1_1": ConvMean, "squeezenet1_0": ConvMean}
    assert isinstance(head, kinds.get(name, MeanLinear))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_own_heads_give_torchvision_s_logits_and_layers_their_maps(name, monkeypatch):
    """All networks with their original heads; `below` may have another resolution."""
    side = {"inception_v3": 128, "vit_b_16": 224}.get(name, 96)
    builder = Torchvision(name, None)
    whole = randomize(builder._build(7))
    monkeypatch.setattr(Torchvision, "_build", lambda self, classes: copy.deepcopy(whole))
    body, head = builder.own(7)
    net = Classifier(body, head, "abcdefg", builder.last, builder.below).eval()
    x = images(side, side)
    with torch.no_grad():
        answer = net(x, at=("last", "below"))
        scaled = TransformInput()(x) if name in ("googlenet", "inception_v3") else x
        close(answer.logits, whole(scaled))
        close(net(x).logits, answer.logits)
        chosen = Classifier(body, select_classes(head, [4, 1]), "eb", builder.last).eval()
        close(chosen(x).logits, answer.logits[:, [4, 1]])
    assert all(maps.ndim == 4 for maps in answer.activations.values())


def test_heads_with_a_norm_between_mean_and_linear_have_class_weights():
    """Of ConvNeXt, cam sums up to the logit, but for the image's own scale and a constant."""
    torch.manual_seed(0)
    body, built = Torchvision("convnext_tiny", None).own(5)
    head: Any = built
    norm: Any = head.get_submodule("classifier.0")
    linear: Any = head.get_submodule("classifier.2")
    for parameter in (norm.weight, norm.bias, linear.weight, linear.bias):
        nn.init.normal_(parameter)
    maps = torch.randn(3, 768, 2, 3)
    with torch.no_grad():
        logits, mean = head(maps), maps.mean((2, 3))
        scale = (mean.var(1, correction=0) + norm.eps).sqrt()[:, None]
        constant = linear.weight @ norm.bias + linear.bias
        close(mean @ head.class_weights.T / scale + constant, logits)
        chosen: Any = select_classes(head, [4, 1])
        close(chosen(maps), logits[:, [4, 1]])
        assert chosen.class_weights.shape == (2, 768)
    net = Classifier(body, head, "eb").eval()
    assert net.head_kind == "own"
    assert copy.deepcopy(net).class_weights.shape == (2, 768)
    with torch.device("meta"):  # where methods are tried on shapes
        on_meta: Any = Torchvision("convnext_tiny", None).own(5)[1]
        assert on_meta.class_weights.shape == (5, 768)
    for name in ("alexnet", "vgg16", "mobilenet_v3_small", "vit_b_16"):
        with torch.device("meta"):
            assert type(Torchvision(name, None).own(5)[1]) is nn.Sequential


def test_tokens_come_as_a_grid_without_the_class_token():
    vit = randomize(VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3))
    x = images(32, 32)
    kept: dict[str, torch.Tensor] = {}
    layer = vit.encoder.layers.encoder_layer_1.ln_1
    handle = layer.register_forward_hook(lambda m, i, output: kept.update(tokens=output))
    logits = vit(x)
    handle.remove()
    wanted = torch.autograd.grad(logits[:, 2].sum(), kept["tokens"])[0]
    head, vit.heads = vit.heads, nn.Identity()
    net = Classifier(vit, head, "abc", "encoder.layers.encoder_layer_1.ln_1")
    answer = net(x, at=("last",))
    grid = answer.activations["last"]
    assert grid.shape == (2, 16, 4, 4)
    close(answer.logits, logits)
    close(grid, kept["tokens"][:, 1:].transpose(1, 2).reshape(2, 16, 4, 4))
    (gradients,) = torch.autograd.grad(answer.logits[:, 2].sum(), grid)
    close(gradients, wanted[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4))


def test_a_new_head_of_a_transformer_reads_its_tokens_as_a_grid():
    with torch.device("meta"):
        builder = Torchvision("vit_b_16", None)
        body, channels = builder.body()
        net = Classifier(body, MeanLinear(channels, 3), "abc", builder.last, builder.below).eval()
        answer = net(torch.zeros(2, 3, 224, 224), at=("last",))
    assert answer.activations["last"].shape == (2, 768, 14, 14)
    assert answer.logits.shape == (2, 3)


def close(ours, theirs):
    scale = float(theirs.detach().abs().max())
    assert scale > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(scale, 1))


def test_half_precision_files_load_as_float32(tmp_path):
    network = original("mobilenet_v2").half().float()
    torch.save(network.half().state_dict(), tmp_path / "half.pth")
    network.float()
    body, head, known = Torchvision("mobilenet_v2", str(tmp_path / "half.pth")).load()
    net, x = Classifier(body, head, known).eval(), images(64, 64)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        close(net(x).logits, network(x))


def expected(name, side, stride):
    """Return the side of the map by the rule in the module's docstring."""
    if name.startswith("vgg"):
        return side // stride
    if name.startswith("densenet"):
        return -(-side // 4) // (stride // 4)
    return -(-side // stride)


@pytest.mark.parametrize(
    ("name", "stride"),
    [(n, s) for n, c in sorted(LAYOUTS.items()) if not c.last for s in (None, 16)
     if s is None or c.last_stride or c.stride == 16],
)  # fmt: skip
def test_sizes_of_maps(name, stride):
    with torch.device("meta"):  # shapes without numbers
        body, channels = Torchvision(name, None, stride).body()
        for size in ((224, 224), (225, 301)):
            shape = tuple(body.eval()(torch.zeros(1, 3, *size)).shape)
            assert shape[:2] == (1, channels)
            if name.startswith("squeezenet"):
                assert all(abs(n / 16 - m) <= 1.3 for n, m in zip(size, shape[2:], strict=True))
            elif name in ("alexnet", "inception_v3", "convnext_tiny"):
                at = stride or 32  # pooled or cut into patches without margin
                assert all(-3 <= m - n / at < 1 for n, m in zip(size, shape[2:], strict=True))
            elif name == "googlenet":
                at = stride or 32
                assert all(abs(n / at - m) < 1 for n, m in zip(size, shape[2:], strict=True))
                assert size != (224, 224) or shape[2:] == (224 // at,) * 2
            else:
                assert shape[2:] == tuple(expected(name, n, stride or 32) for n in size)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("size", [(96, 64), (65, 97)])
def test_every_second_cell_of_the_finer_map_is_the_coarser_one(name, size):
    state = original(name).state_dict()
    coarse, fine = Torchvision(name, None, 32).body()[0], Torchvision(name, None, 16).body()[0]
    for body in (coarse, fine):
        missing, _ = body.load_state_dict(state, strict=False)
        assert not missing
    x = images(*size)
    with torch.no_grad():
        wide, narrow = fine.eval()(x), coarse.eval()(x)
    close(wide[:, :, ::2, ::2], narrow)


def test_dilated_pooling_reaches_as_far_as_before():
    maps = torch.randn(1, 2, 11, 9)
    apart = ours.DilatedMaxPool()(maps)
    assert apart.shape == maps.shape
    near = torch.nn.MaxPool2d(3, 1, 1)(maps[:, :, ::2, ::2])
    assert torch.equal(apart[:, :, ::2, ::2], near)


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_finer_maps_of_networks_that_pool_can_be_differentiated(name):
    body, channels = Torchvision(name, None, 16).body()
    net = Classifier(body, MeanLinear(channels, 3), "abc").eval()
    layer = "inception5a" if name == "googlenet" else "features.denseblock4.denselayer1"
    answer = net(images(64, 64, 1), at=(layer,))
    (gradient,) = torch.autograd.grad(answer.logits[0, 0], answer.activations[layer])
    assert gradient.isfinite().all()
    assert answer.activations[layer].shape[2:] == (4, 4)


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match=r"model.name=resnet51: no such network; did you mean"):
        Torchvision("resnet51", None)
    with pytest.raises(UserError, match=r"model.stride=8: resnet18 makes maps at .* 32 or 16"):
        Torchvision("resnet18", None, 8)
    with pytest.raises(UserError, match=r"model.stride=32: squeezenet1_0 makes maps at .* of 16"):
        Torchvision("squeezenet1_0", None, 32)
    with pytest.raises(
        UserError, match=r"model.weights=/no/such.pth: no such file; choices: image"
    ):
        Torchvision("resnet18", "/no/such.pth")
    with pytest.raises(UserError, match="has no weights to load"):
        Torchvision("resnet18", None).load()


# -- files of weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    return original("squeezenet1_1").state_dict()


def loaded(path):
    return Torchvision("squeezenet1_1", str(path)).load()


@pytest.mark.parametrize("wrapping", [None, "state_dict", "model", "module."])
def test_usual_wrappings(state, tmp_path, wrapping):
    if wrapping == "module.":
        saved = {f"module.{key}": tensor for key, tensor in state.items()}
    else:
        saved = state if wrapping is None else {wrapping: state, "epoch": 3}
    torch.save(saved, tmp_path / "w.pth")
    body, head, _ = loaded(tmp_path / "w.pth")
    assert torch.equal(body.features[0].weight, state["features.0.weight"])
    assert torch.equal(head.conv.weight, state["classifier.1.weight"])


def test_safetensors(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    body, head, _ = loaded(tmp_path / "w.safetensors")
    assert torch.equal(head.conv.bias, state["classifier.1.bias"])
    with torch.no_grad():
        body.features[0].weight.zero_()  # ours, not a window on the file
    assert read_weights(tmp_path / "w.safetensors").tensors["features.0.weight"].any()


def test_other_classes_keep_the_head(state, tmp_path):
    few = {k: v[:7] if k.startswith("classifier") else v for k, v in state.items()}
    torch.save(few, tmp_path / "w.pth")
    body, head, known = loaded(tmp_path / "w.pth")
    assert known == tuple(f"class {n}" for n in range(7))
    assert torch.equal(head.conv.weight, state["classifier.1.weight"][:7])
    assert torch.equal(body.features[0].weight, state["features.0.weight"])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(state, tmp_path, suffix, part):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match=r"not a file of weights that loads safely: .*cut short"):
        loaded(path)


class Runs:
    """A pickle that would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore")  # torch on what it refuses
@pytest.mark.parametrize("write", ["torch", "old torch", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, write):
    touched, path = tmp_path / "touched", tmp_path / "w.pth"
    content = {"features.0.weight": torch.zeros(1), "bomb": Runs(touched)}
    if write == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(UserError, match="not a file of weights that loads safely"):
        loaded(path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Runs(touched)))
    assert touched.exists()  # the trap was armed


@pytest.mark.filterwarnings("ignore")  # torch on what it refuses
@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([1, 2], "got a list"),
        ({}, "got nothing"),
        ({"epoch": 3, "loss": 0.5}, "got a int at 'epoch'"),
        ({3: torch.zeros(1)}, "got a Tensor at 3"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "got a Tensor at 'a'"),
    ],
)
def test_other_content_is_refused(tmp_path, content, got):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"expected tensors by name .*{got}"):
        loaded(tmp_path / "w.pth")


def test_weights_of_another_network_are_refused_with_counts_and_an_example(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as refused:
        Torchvision("resnet18", str(tmp_path / "w.pth")).load()
    message = str(refused.value)
    assert "do not fit resnet18" in message
    assert "102 of 122 tensors it needs are missing (conv1.weight)" in message
    assert "52 of 52 tensors in the file are not its (features.0.weight)" in message
    with pytest.raises(
        UserError, match=r"have another shape \(features.0.weight: \[64, 3, 3, 3\], n"
    ):
        Torchvision("squeezenet1_0", str(tmp_path / "w.pth")).load()


def test_files_without_batch_counts_load(tmp_path):
    network = original("resnet18")
    kept = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    torch.save(kept, tmp_path / "w.pth")
    body, head, known = Torchvision("resnet18", str(tmp_path / "w.pth")).load()
    net = Classifier(body, head, known)
    assert not any(t.is_meta for t in net.state_dict().values())
    with torch.no_grad():
        close(net.eval()(images(64, 64)).logits, network(images(64, 64)))


def test_torchvision_s_own_files_of_old(tmp_path, monkeypatch):
    """DenseNet's download has names with a dot more, GoogLeNet's has its side classifiers."""
    network = original("densenet121")
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key else key: tensor
        for key, tensor in network.state_dict().items()
        if "num_batches" not in key
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    monkeypatch.setattr(ours, "_download_weights", lambda name: old)
    body, _, _ = Torchvision("densenet121").load()
    x = images(64, 64, 1)
    with torch.no_grad():
        close(body.eval()(x), original_features(network, "densenet121", x))
    network = original("googlenet")
    sided = {**network.state_dict(), "aux1.fc1.weight": torch.zeros(2), "aux2.b": torch.zeros(1)}
    monkeypatch.setattr(ours, "_download_weights", lambda name: sided)
    Torchvision("googlenet").load()
    torch.save(sided, tmp_path / "mine.pth")
    assert Torchvision("googlenet", str(tmp_path / "mine.pth")).notes() == [
        "mine.pth: 2 tensors ('aux1.fc1.weight', 'aux2.b') of auxiliary classifiers, which only "
        "the training of googlenet uses: not used"
    ]


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("slow")])
def test_offline_says_what_to_fetch_and_where_to_put_it(monkeypatch, error, tmp_path):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kind = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(kind, "get_state_dict", fail)
    with pytest.raises(UserError) as refused:
        Torchvision("resnet18").load()
    message = str(refused.value)
    assert kind.IMAGENET1K_V1.url in message
    assert str(tmp_path / "hub" / "checkpoints") in message
    assert "model.weights=FILE" in message


def test_a_broken_download_says_to_remove_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for content in (b"", b"not weights", b"PK\x03\x04"):
        (folder / "resnet18-f37072fd.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"resnet18-f37072fd.pth cannot be read .*; remove it"):
            Torchvision("resnet18").load()


# -- classes -------------------------------------------------------------------------------------


def test_rows_by_name():
    known = ("tench", "English springer", "crane", "crane", "Cardigan", "cardigan", "hot-dog")
    assert match_classes(["English_Springer", " TENCH"], known) == [1, 0]
    assert match_classes(["hot dog"], known) == [6]
    assert match_classes(["CAFE\N{COMBINING ACUTE ACCENT}"], ["bar", "café"]) == [1]
    assert match_classes(["tench", "unicorn"], known) is None
    assert match_classes(["crane"], known) is None
    assert match_classes(["Cardigan", "cardigan"], known) == [4, 5]
    assert match_classes(["CARDIGAN"], known) is None
    assert match_classes(["tench", "Tench"], known) is None  # two classes cannot share a row
    assert match_classes(list_imagenet_classes(), list_imagenet_classes()) == list(range(1000))


@pytest.mark.parametrize("head", [MeanLinear, ConvMean])
def test_select_classes_keeps_their_rows(head):
    whole, x = head(6, 9), torch.randn(2, 6, 4, 5)
    expected = whole(x)[:, [7, 0, 3]]
    torch.testing.assert_close(select_classes(whole, [7, 0, 3])(x), expected)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0"])
def test_real_weights_tell_real_images_apart(name):
    weights = DATA / "weights" / f"{name}_imagenet.pth"
    if not weights.is_file():
        pytest.skip(f"{weights} is not on this machine")
    folders = [f for f in sorted((DATA / "imagenette" / "val").iterdir()) if f.is_dir()]
    names = dict(
        line.split(maxsplit=1)
        for line in (DATA / "imagenette" / "classes.txt").read_text().splitlines()
    )
    files = [file for folder in folders for file in sorted(folder.iterdir())[:4]]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    body, head, known = Torchvision(name, str(weights)).load()
    rows = match_classes([names[folder.name] for folder in folders], known)
    assert rows == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    net = Classifier(body, select_classes(head, rows), [str(row) for row in rows]).eval()
    with torch.no_grad():
        logits = net(to_tensor(pixels, MEAN, STD, torch.device("cpu"))).logits
    right = logits.argmax(1).numpy() == np.repeat(np.arange(10), 4)
    assert right.mean() >= 0.9
