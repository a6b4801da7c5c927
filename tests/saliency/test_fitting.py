"""Methods that must be fitted are listed within others, and replaced by fitted ones there."""

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.saliency.average import Average
from pipeline.saliency.cam import CAM
from pipeline.saliency.ddt import DDT
from pipeline.saliency.fitting import list_fittable, replace_fittable
from pipeline.saliency.views import Views


def test_most_methods_need_none():
    plain = Views(Average((CAM(), CAM("positive"))))
    assert list_fittable(plain) == []
    assert replace_fittable(plain, []) == plain


def test_parts_of_parts_are_replaced_in_their_order():
    first, second = DDT(), DDT(per_class=True)
    whole = Average((first, Views(Average((CAM(), second)), True, (1.0, 2.0))))
    assert list_fittable(whole) == [first, second]
    done = replace_fittable(whole, [CAM(), CAM("positive")])
    assert done == Average(
        (CAM(), Views(Average((CAM(), CAM("positive"))), True, (1.0, 2.0)))
    )  # fmt: skip
    assert list_fittable(done) == []
    assert replace_fittable(first, [CAM()]) == CAM()


def test_each_part_needs_a_fitted_method():
    with pytest.raises(ValueError, match="expected 1 fitted methods, got 0"):
        replace_fittable(Views(DDT()), [])


def test_views_of_ddt():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    net = Classifier(body, MeanLinear(8, 2), "ab").eval()
    x, labels = torch.randn(6, 3, 24, 40), torch.tensor([0, 1, 0, 1, 0, 1])
    whole = Views(DDT(), True, (1, 2))

    def choose(logits):
        return logits.argmax(1, keepdim=True)

    with pytest.raises(UserError, match="not yet fitted"):
        whole(net, x, choose)
    fitted = [part.fitted(part.statistics(net, x, labels)) for part in list_fittable(whole)]
    done = replace_fittable(whole, fitted)
    assert list_fittable(done) == []
    assert done(net, x, choose).maps.shape == (6, 1, 24, 40)
