"""DDT equals the first principal component as NumPy finds it, of all images or of each class."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import MEAN, STD, Torchvision
from pipeline.protocols import FittableMethod
from pipeline.saliency import ddt
from pipeline.saliency.ddt import DDT


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def network(classes=4, channels=12):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, channels, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    names = [str(n) for n in range(classes)]
    return Classifier(body, MeanLinear(channels, classes), names).eval().requires_grad_(False)


def images(count=18, size=(24, 40)):
    random = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, *size, generator=random)
    noise[:, :, 6:18, 10:30] += 2 * torch.randn(count, 3, 1, 1, generator=random)
    return noise, torch.arange(count) % 3  # class 3 has none


def fit(method, net, x, labels, batch):
    total: dict[str, torch.Tensor] = {}
    for start in range(0, len(x), batch):
        chunk = slice(start, start + batch)
        for name, value in method.statistics(net, x[chunk], labels[chunk]).items():
            total[name] = total.get(name, 0) + value
    return method.fitted(total)


def by_numpy(features, of):
    """Compute mean and first right singular vector of the centred descriptors."""
    channels = features.shape[1]
    descriptors = features[of].transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    mean = descriptors.mean(0)
    component = np.linalg.svd(descriptors - mean, full_matrices=False)[2][0]
    return mean, component * np.sign(component.sum())


@pytest.mark.parametrize("batch", [1, 5, 18])
def test_equals_its_definition(batch):
    net, (x, labels) = network(), images()
    explanation = fit(DDT(), net, x, labels, batch)(net, x, top(2))
    features = net.features(x).numpy()
    mean, component = by_numpy(features, slice(None))
    wanted = np.einsum("bkhw,k->bhw", features - mean[:, None, None], component)
    assert explanation.maps.shape == (18, 2, 6, 10)
    for t in range(2):  # all classes have the same map
        np.testing.assert_allclose(explanation.maps[:, t].numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(explanation.classes, net(x).logits.topk(2).indices)
    # Centred, and of the largest variance there is.
    assert abs(explanation.maps.mean()) < 1e-5


@pytest.mark.parametrize("batch", [4, 18])
def test_per_class_equals_its_definition(batch):
    net, (x, labels) = network(), images()
    asked = torch.tensor([[0, 2, 1, 3]]).expand(len(x), 4)
    explanation = fit(DDT(per_class=True), net, x, labels, batch)(net, x, lambda logits: asked)
    features = net.features(x).numpy()
    groups = {0: labels.numpy() == 0, 1: labels.numpy() == 1, 2: labels.numpy() == 2,
              3: slice(None)}  # fmt: skip  # a class without images gets the component of all
    for t, label in enumerate((0, 2, 1, 3)):
        mean, component = by_numpy(features, groups[label])
        wanted = np.einsum("bkhw,k->bhw", features - mean[:, None, None], component)
        np.testing.assert_allclose(explanation.maps[:, t].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_an_image_of_several_classes_counts_for_each():
    net, (x, labels) = network(), images()
    sets = torch.nn.functional.one_hot(labels, 4).bool()
    sets[::2, 1] = True
    asked = torch.tensor([[0, 1, 2]]).expand(len(x), 3)
    explanation = fit(DDT(per_class=True), net, x, sets, 5)(net, x, lambda logits: asked)
    features = net.features(x).numpy()
    for label in range(3):
        mean, component = by_numpy(features, sets[:, label].numpy())
        wanted = np.einsum("bkhw,k->bhw", features - mean[:, None, None], component)
        np.testing.assert_allclose(explanation.maps[:, label].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_the_map_grows_with_the_sum_of_the_features():
    net, (x, labels) = network(), images()
    for per_class in (False, True):
        method = fit(DDT(per_class), net, x, labels, 6)
        assert (method.components.sum(1) > 0).all()
        torch.testing.assert_close(method.components.norm(dim=1), torch.ones(len(method.means)))
    maps = fit(DDT(), net, x, labels, 6)(net, x, top(1)).maps.flatten()
    sums = net.features(x).sum(1).flatten()
    assert torch.corrcoef(torch.stack((maps, sums)))[0, 1] > 0


def test_two_eigenvalues_of_the_same_size_are_separated_by_decomposition():
    matrix = torch.diag(torch.tensor([1.0, 5.0, 5.0 - 1e-9, 2.0], dtype=torch.float64))
    vector = ddt._find_first_eigenvector(matrix)
    torch.testing.assert_close(matrix @ vector, 5 * vector, rtol=1e-6, atol=1e-6)


def test_images_that_never_vary_give_maps_of_zero():
    net, x = network(), torch.zeros(2, 3, 24, 40)
    net.body[0].padding = net.body[2].padding = (0, 0)
    explanation = fit(DDT(), net, x, torch.zeros(2, dtype=torch.long), 2)(net, x, top(1))
    assert explanation.maps.abs().max() < 1e-3


def test_other_layers_and_sizes():
    net, (x, labels) = network(), images(6, (32, 20))
    explanation = fit(DDT(layer="1"), net, x, labels, 6)(net, x, top(1))
    assert explanation.maps.shape == (6, 1, 16, 10)


def test_one_pass_serves_maps_and_logits():
    net, (x, labels) = network(), images(6)
    method = fit(DDT(), net, x, labels, 6)
    calls = []
    net.body.register_forward_pre_hook(lambda *_: calls.append(1))
    explanation = method(net, x, top(4))
    assert len(calls) == 1
    assert not explanation.maps.requires_grad


def test_is_called_only_once_it_is_fitted():
    net, (x, _) = network(), images(1)
    assert isinstance(DDT(), FittableMethod)
    with pytest.raises(
        UserError, match="not yet fitted to training images; the stage explain fits it"
    ):
        DDT()(net, x, top(1))
    with pytest.raises(UserError, match="no training image"):
        DDT().fitted({})


def test_components_of_too_many_classes_are_refused():
    net = network(classes=5)
    x, labels = images(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddt, "LARGEST", 5 * 12**2 * 8 - 1)
        with pytest.raises(
            UserError, match=r"per_class=true: sums of 12 x 12 .* each of 5 classes"
        ):
            DDT(per_class=True).statistics(net, x, labels)
        patch.setattr(ddt, "LARGEST", 5 * 12**2 * 8)
        DDT(per_class=True).statistics(net, x, labels)


def test_birds_come_out_bright(shared):
    """Check the sign on photographs: nearly all maps are brighter inside the box than outside."""
    weights = shared / "data/weights/mobilenet_v2_imagenet.pth"
    body, head, names = Torchvision("mobilenet_v2", str(weights)).load()
    net = Classifier(body, head, names).eval().to(memory_format=torch.channels_last)
    root = shared / "data/cub30/CUB_200_2011"
    files = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    boxes = {line.split()[0]: [float(v) for v in line.split()[1:]]
             for line in (root / "bounding_boxes.txt").read_text().splitlines()}  # fmt: skip
    ids = sorted(files)[::27]

    def read(key):
        image = Image.open(root / "images" / files[key]).convert("RGB")
        pixels = torch.from_numpy(np.array(image.resize((160, 160)))).permute(2, 0, 1) / 255
        x, y, w, h = (v * 160 / image.size[n % 2] for n, v in enumerate(boxes[key]))
        inside = torch.zeros(160, 160, dtype=torch.bool)
        inside[int(y) : int(y + h), int(x) : int(x + w)] = True
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
            :, None, None
        ], inside

    photos, insides = (torch.stack(parts) for parts in zip(*map(read, ids), strict=True))
    half = len(ids) // 2
    with torch.autocast("cpu", torch.bfloat16):
        method = fit(DDT(), net, photos[:half], torch.zeros(half, dtype=torch.long), 8)
        maps = method(net, photos[half:], top(1)).maps
    large = torch.nn.functional.interpolate(maps, (160, 160), mode="bilinear")[:, 0]
    brighter = [
        bool(values[inside].mean() > values[~inside].mean())
        for values, inside in zip(large, insides[half:], strict=True)
        if not inside.all()
    ]
    assert np.mean(brighter) > 0.9
