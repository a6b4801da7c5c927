"""Deep feature factorization against scikit-learn's NMF and pytorch-grad-cam's factorization."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from sklearn.decomposition import NMF

from pipeline.errors import UserError
from pipeline.saliency.deep_feature_factorization import DeepFeatureFactorization, start_factors
from tests.saliency.cam_peers import NETWORKS, check_contract, pictures

CLASSES = [0, 4, 6]


def choose(logits):
    return torch.tensor(CLASSES).expand(len(logits), -1)


def draw_features(seed=0, concepts=3, noise=0.0):
    """Draw features [1, 12, 6, 7] of so many concepts, each absent somewhere."""
    random = np.random.default_rng(seed)
    where = random.random((42, concepts)) * (random.random((42, concepts)) < 0.5)
    what = random.random((concepts, 12)) * (random.random((concepts, 12)) < 0.6)
    rows = where @ what + noise * random.random((42, 12))
    return torch.from_numpy(rows.T.reshape(1, 12, 6, 7)), where, what


def correlate(maps, others):
    """Return the mean correlation of maps [r, ...] under the best order."""
    count = len(maps)
    flat = [np.asarray(side, float).reshape(count, -1) for side in (maps, others)]
    table = np.corrcoef(flat[0], flat[1])[:count, count:]
    return max(np.mean([table[i, j] for i, j in enumerate(order)])
               for order in permutations(range(count)))  # fmt: skip


@pytest.mark.parametrize("iterations", [1, 7, 200])
def test_equals_sklearns_nmf_from_the_same_start(iterations):
    features, _, _ = draw_features(noise=0.2)
    rows = features[0].flatten(1).T.numpy()
    method = DeepFeatureFactorization(concepts=3, iterations=iterations)
    where, what = method.factorize(features)
    ours = start_factors(torch.from_numpy(rows)[None], 3)
    # The peer updates C after S in each iteration, as ours, from the same factors.
    peer = NMF(3, init="custom", solver="cd", tol=0, max_iter=iterations)
    peer_where = peer.fit_transform(rows, W=ours[0][0].numpy().copy(), H=ours[1][0].numpy().copy())
    np.testing.assert_allclose(where[0].flatten(1).T.numpy(), peer_where, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(what[0].numpy(), peer.components_, rtol=1e-5, atol=1e-7)


def test_starts_where_sklearns_nmf_starts():
    features, _, _ = draw_features(noise=0.2)
    rows = features[0].flatten(1).T.numpy()
    where, _ = DeepFeatureFactorization(concepts=3, iterations=5).factorize(features)
    peer = NMF(3, init="nndsvd", solver="cd", tol=0, max_iter=5, random_state=0)
    peer_where = peer.fit_transform(rows)
    np.testing.assert_allclose(where[0].flatten(1).T.numpy(), peer_where, rtol=0, atol=1e-3)


def test_finds_the_concepts_that_the_features_were_made_of():
    features, where, _ = draw_features()
    maps, what = DeepFeatureFactorization(concepts=3, iterations=2000).factorize(features)
    assert (maps >= 0).all()
    assert (what >= 0).all()
    rebuilt = torch.einsum("brhw,brk->bkhw", maps, what)
    torch.testing.assert_close(rebuilt, features, rtol=0, atol=1e-3)
    assert correlate(maps[0], where.T.reshape(3, 6, 7)) > 0.98


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_is_pytorch_grad_cams_factorization(noise):
    """Compare with the peer, which starts at random and subtracts each channel's least value."""
    features, _, _ = draw_features(1, noise=noise)
    features = features - features.amin((2, 3), keepdim=True)
    concepts, peer = dff(features.numpy().copy(), 3)
    where, what = DeepFeatureFactorization(concepts=3, iterations=1000).factorize(features)
    rebuilt = torch.einsum("brhw,brk->bkhw", where, what)
    error = float((rebuilt - features).norm())
    peer_error = np.linalg.norm(np.einsum("rhw,kr->khw", peer[0], concepts) - features[0].numpy())
    assert error <= 1.02 * peer_error + 1e-3
    assert correlate(where[0], peer[0]) > 0.97


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_class_has_the_map_of_its_best_concept(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    method = DeepFeatureFactorization(layer, concepts=3, iterations=50)
    answer = net(images, at=(layer,))
    ours = method(net, images, choose).maps
    for n in range(2):
        features = answer.activations[layer][n].detach()
        offset = features.amin((1, 2), keepdim=True).clamp(max=0)
        assert (offset < 0).any() == (kind == "transformer")
        where, what = method.factorize((features - offset)[None])
        for column, label in enumerate(CLASSES):
            scores = [
                net.behind(layer, offset[None] + what[:, r, :, None, None] * where[:, r, None],
                           images[n : n + 1])[0, label]
                for r in range(3)
            ]  # fmt: skip
            best = int(torch.stack(scores).argmax())
            wanted = where[0, best] * what[0, best].norm()
            torch.testing.assert_close(ours[n, column], wanted, rtol=1e-4, atol=1e-5)


def test_on_a_gap_network_the_concept_is_scored_by_the_class_weights():
    net = NETWORKS["mean_linear"]()
    images = pictures(net)
    method = DeepFeatureFactorization(concepts=3)
    where, what = method.factorize(net(images, at=("last",)).activations["last"].detach())
    strength = where.mean((2, 3))[..., None] * what
    best = (strength @ net.class_weights[CLASSES].T).argmax(1)
    ours = method(net, images, choose).maps
    for n in range(2):
        scaled = where[n] * what[n].norm(dim=1)[:, None, None]
        torch.testing.assert_close(ours[n], scaled[best[n]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_contract(kind):
    net = NETWORKS[kind]()
    check_contract(DeepFeatureFactorization(iterations=20), net, pictures(net))


def test_features_of_zeros_have_a_map_of_zeros():
    method = DeepFeatureFactorization(concepts=2)
    where, what = method.factorize(torch.zeros(1, 5, 3, 3))
    assert (where == 0).all()
    assert (what == 0).all()


def test_wrong_arguments():
    with pytest.raises(UserError, match=r"saliency.concepts=0"):
        DeepFeatureFactorization(concepts=0)
    with pytest.raises(UserError, match=r"saliency.iterations=0"):
        DeepFeatureFactorization(iterations=0)
    net = NETWORKS["mean_linear"]()
    with pytest.raises(UserError, match=r"saliency.concepts=17: layer last has 16 channels at 54"):
        DeepFeatureFactorization(concepts=17)(net, pictures(net), choose)
