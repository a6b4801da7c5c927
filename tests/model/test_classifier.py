"""A network that answers with its activations, held to plain autograd on the whole network."""

import threading
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision


class Branches(nn.Module):
    """Two branches, a ReLU used twice, ReLUs in place, a layer that is never run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.left = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 4, 3, 2, 1), nn.Upsample(None, 2))
        self.top = nn.Conv2d(8, 5, 3, padding=1)
        self.idle = nn.Conv2d(1, 1, 1)
        self.flat = nn.Flatten()

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = torch.cat([self.left(x), self.right(x)], 1)
        self.flat(x)
        return self.relu(self.top(x))


def network(seed=0):
    torch.manual_seed(seed)
    return Classifier(Branches(), MeanLinear(5, 3), ("a", "b", "c")).eval()


def images(seed=1, batch=2):
    return torch.randn(batch, 3, 16, 20, generator=torch.Generator().manual_seed(seed))


def state_of(net):
    return (
        [(n, p.requires_grad, p.grad, p._version) for n, p in net.named_parameters()],
        [(n, b.clone().tolist(), b.requires_grad) for n, b in net.named_buffers()],
        [(n, m.training, len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks),
          getattr(m, "inplace", None)) for n, m in net.named_modules()],
        torch.is_grad_enabled(),
    )  # fmt: skip


def plain(net, x, layer):
    """Return logits, an activation and its gradient by a graph of the whole network."""
    kept = {}

    def keep(module, inputs, output):
        kept["output"] = output.clone()  # in eval mode Dropout's output is its input
        return kept["output"].clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    x = x.clone().requires_grad_()
    logits = net(x).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept["output"])
    return logits.detach(), kept["output"].detach(), gradient


LAYERS = ["stem", "norm", "left.0", "left.1", "left", "right.0", "right.1", "right", "top", "relu"]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_at_any_layer_equals_that_of_the_whole_graph(layer, frozen):
    net, x = network(), images()
    logits, activation, gradient = plain(net, x, f"body.{layer}")
    net.requires_grad_(not frozen)
    before = state_of(net)
    answer = net(x, at=(layer,))
    recorded = answer.activations[layer]
    assert torch.equal(answer.logits.detach(), logits)
    assert torch.equal(recorded.detach(), activation)
    (ours,) = torch.autograd.grad(answer.logits[:, 1].sum(), recorded)
    torch.testing.assert_close(ours, gradient, rtol=1e-6, atol=1e-6)
    assert state_of(net) == before


@pytest.mark.parametrize("frozen", [False, True])
def test_several_layers_from_one_pass(frozen):
    net, x = network(), images()
    net.requires_grad_(not frozen)
    names = ("top", "left.0", "right", "last")
    answer = net(x, at=names)
    assert tuple(answer.activations) == names
    gradients = torch.autograd.grad(
        answer.logits[:, 1].sum(), [answer.activations[name] for name in names]
    )
    for name, ours in zip(names[:3], gradients[:3], strict=True):
        torch.testing.assert_close(ours, plain(net, x, f"body.{name}")[2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[3], plain(net, x, "body")[2], rtol=1e-6, atol=1e-6)


def reached(tensor):
    """Return the ids of the leaves of a graph."""
    todo, seen, leaves = [tensor.grad_fn], set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo += [following for following, _ in node.next_functions]
    return leaves


def test_graph_is_cut_at_the_earliest_layer():
    net = network()
    answer = net(images().requires_grad_(), at=("last", "top"))
    leaves = reached(answer.logits)
    assert id(answer.activations["top"]) in leaves
    assert answer.activations["top"].is_leaf
    assert not answer.activations["last"].is_leaf
    inside = {n for n, p in net.named_parameters() if id(p) in leaves}
    assert inside == {"head.linear.weight", "head.linear.bias"}  # `top` itself ran before the cut


def test_last_is_what_the_head_averages():
    net, x = network(), images()
    answer = net(x, at=("last",))
    assert torch.equal(net.head(answer.activations["last"]), answer.logits)
    assert torch.equal(net.features(x), answer.activations["last"])


def test_layer_run_twice_answers_with_its_last_run():
    net, x = network(), images()
    answer = net(x, at=("relu", "last"))
    assert torch.equal(answer.activations["relu"], answer.activations["last"])


@pytest.mark.parametrize("layer", ["norm", "left.0", "right.0", "top"])
def test_without_gradients_there_is_no_graph_and_no_later_relu_shows(layer):
    net, x = network(), images()
    with torch.no_grad():
        answer = net(x, at=(layer,))
    assert not answer.logits.requires_grad
    assert not answer.activations[layer].requires_grad
    assert torch.equal(answer.activations[layer], plain(net, x, f"body.{layer}")[1])
    with torch.inference_mode():
        assert torch.equal(net(x, at=(layer,)).logits, answer.logits)


def test_unknown_layer_names_the_near_ones_and_leaves_nothing():
    net = network()
    before = state_of(net)
    with pytest.raises(UserError, match=r"layer 'lefft\.0': no such layer; near ones: left\.0"):
        net(images(), at=("top", "lefft.0"))
    with pytest.raises(UserError, match="the top ones: stem, norm"):
        net(images(), at=("qqqqqqqqq",))
    assert state_of(net) == before


def test_layer_that_is_not_run_or_gives_no_maps_is_refused():
    net = network()
    before = state_of(net)
    with pytest.raises(UserError, match="'idle': the network has it but does not run it"):
        net(images(), at=("idle",))
    with pytest.raises(UserError, match=r"'flat': expected feature maps .* got \[2, 25"):
        net(images(), at=("flat",))
    assert state_of(net) == before


@pytest.mark.parametrize("graph", [True, False])
def test_exception_inside_leaves_the_network_as_it_was(graph):
    net = network()
    net.body.top.forward = lambda x: 1 / 0
    with torch.set_grad_enabled(graph):
        before = state_of(net)
        with pytest.raises(ZeroDivisionError):
            net(images(), at=("left.0", "top"))
        assert state_of(net) == before


def test_other_heads_have_no_class_weights():
    class Other(nn.Module):
        def forward(self, features):
            return features.amax((2, 3))

    net = Classifier(Branches(), Other(), ("a",) * 5)
    assert net(images()).logits.shape == (2, 5)
    with pytest.raises(UserError, match="no global average pooling"):
        _ = net.class_weights


def test_threads_do_not_mix():
    net, names = network(), ("left.0", "right", "last")
    batches = [images(seed, 1 + seed % 2) for seed in range(4)]
    wanted = []
    for x in batches:
        answer = net(x, at=names)
        maps = [answer.activations[n] for n in names]
        wanted.append((answer.logits.detach(), torch.autograd.grad(answer.logits.sum(), maps)))
    before = state_of(net)
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(k):
        start.wait()
        for call in range(50):
            with torch.set_grad_enabled(call % 5 != 4):
                answer = net(batches[k], at=names)
                same = torch.equal(answer.logits, wanted[k][0])
                if torch.is_grad_enabled():
                    maps = [answer.activations[n] for n in names]
                    gradients = torch.autograd.grad(answer.logits.sum(), maps)
                    pairs = zip(gradients, wanted[k][1], strict=True)
                    same &= all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
                else:
                    same &= not answer.logits.requires_grad
            if not same:
                wrong.append((k, call))

    def guarded(k):
        try:
            work(k)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert state_of(net) == before


def test_real_network_inside_branches_and_frozen():
    torch.manual_seed(0)
    body, channels = Torchvision("googlenet", None).body()
    net = Classifier(body, MeanLinear(channels, 4), "abcd").eval().requires_grad_(False)
    x = torch.randn(1, 3, 64, 80)
    layer = "inception4c.branch3.1.conv"
    _, activation, gradient = plain(net, x, f"body.{layer}")
    answer = net(x, at=(layer,))
    assert torch.equal(answer.activations[layer].detach(), activation)
    (ours,) = torch.autograd.grad(answer.logits[:, 1].sum(), answer.activations[layer])
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))
