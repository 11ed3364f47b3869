"""Upstream's own classes, known by structure and tried out."""

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.adapters.upstream import pair
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters import written_like_upstream as upstream
from tests.adapters.judge import assert_equal_outputs, both, close

peers.timm()  # its blocks take timm's DropPath


@pytest.mark.parametrize("v1", [False, True])
def test_equals_itself(v1):
    plain, fast, report = both(randomise(upstream.ConvNeXtV2(v1=v1), 0).eval())
    assert len(report.replaced) == 2 + 4 and not report.not_replaced
    assert_equal_outputs(plain, fast, torch.randn(2, 3, 32, 40))


def test_drop_path_draws_what_upstream_draws():
    plain, fast, _ = both(randomise(upstream.ConvNeXtV2(drop_path=0.5), 0).train())
    x, results = torch.randn(6, 3, 32, 32), []
    for model in (plain, fast):
        torch.manual_seed(3)
        results.append(model(x))
    close(results[1], results[0], 2e-5, "output")


@pytest.mark.parametrize("block", [upstream.WithoutResidual, upstream.ThatRaises])
def test_look_alikes_stay(block):
    model = upstream.ConvNeXtV2(block)
    report = cf.accelerate(model)
    assert {r.cls for r in report.replaced} == {"Sequential"} and len(report.not_replaced) == 4
    assert all(r.reason.startswith("its class looks like upstream's Block but ") for r in report.not_replaced)
    assert type(model.stages[0][0]) is block


def test_a_module_that_stands_twice_in_a_sequence():
    act = nn.GELU()
    twice, hole = nn.Sequential(act, act), nn.Sequential(nn.Conv2d(3, 8, 4, 4), act)
    hole.register_module("1", None)
    model = nn.Sequential(upstream.ConvNeXtV2(), twice)
    report = cf.accelerate(model)
    assert len(report.replaced) == 2 + 4 and type(model[1]) is nn.Sequential
    assert pair(twice) is None and pair(hole) is None


def test_our_own_need_no_help(recwarn):
    report = cf.accelerate(cf.convnextv2_atto())
    assert not report.replaced and not report.not_replaced and "need no help" in str(report)
    assert not recwarn.list
