"""The peers compute what we compute: a benchmark against something else would be worthless."""

import pytest
import torch

import convnextv2_fast as cf
from benchmarks.rivals.masked_dense import MaskedDenseFCMAE
from benchmarks.rivals.sizes import SIZES
from benchmarks.rivals.upstream_eager import ConvNeXtV2
from benchmarks.suite import problems, providers, roofline
from benchmarks.suite.cases import OpCase, Setting
from benchmarks.suite.measure import Effort, measure
from benchmarks.suite.module_cases import BlockCase, FcmaeCase, ModelCase, seeded
from benchmarks.suite.problems import Shape
from convnextv2_fast.testing import KERNEL_OPS

SMOKE = Setting(smoke=True)
ATTO = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def quick(case, *wanted):
    return measure(case, wanted or [name for name in providers.names(case) if "compile" not in name], Effort.smoke())


def test_the_sizes_are_ours():
    assert {name: (tuple(d), tuple(c)) for name, (d, c) in cf.convnextv2.SIZES.items()} == SIZES


def test_upstream_eager_is_the_reference():
    ours = seeded(lambda: cf.convnextv2_atto(num_classes=7)).double()
    plain = ConvNeXtV2("atto", 7).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    torch.testing.assert_close(plain(x), cf.reference.convnextv2(ours.state_dict(), x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_masked_dense_is_the_sparse_reference(scope):
    ours = seeded(lambda: cf.fcmae.convnextv2_atto(init="std02")).double()
    dense = MaskedDenseFCMAE("atto", scope).double()
    dense.load_sparse(ours.state_dict())
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 1, 0.0]])
    loss, pred = dense(images, mask)
    wanted, wanted_pred, _ = cf.reference.fcmae(ours.state_dict(), images, mask.double(), grn_scope=scope)
    # the loss is summed in float32, as under autocast
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(pred, wanted_pred, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
@pytest.mark.parametrize("op", KERNEL_OPS)
def test_ops(op, backward):
    shape = {"patch_conv": Shape(1, 9, 8, 3, 8, 2), "sparse_dwconv": Shape(2, 14, 14, 8)}.get(op, Shape(2, 7, 7, 8))
    outcomes = quick(OpCase(op, shape, SMOKE, backward))
    assert {name for name, o in outcomes.items() if o.status == "failed"} == set(), outcomes
    assert outcomes["fast-torch"].status == "ok"
    info = outcomes["fast-torch"].info
    assert info["gb_per_s"] > 0 and info["roofline_share"] > 0 and info["max_relative_error"] < 1e-4


@pytest.mark.parametrize(
    "case",
    [
        BlockCase(Shape(2, 7, 7, 8), SMOKE, True),
        ModelCase("atto", 2, SMOKE, resolution=32, classes=5),
        FcmaeCase("atto", 2, SMOKE, resolution=64, scope="sample"),
    ],
    ids=lambda case: case.kind,
)
def test_modules(case):
    outcomes = quick(case)
    assert {name: o.reason for name, o in outcomes.items() if o.status == "failed"} == {}
    assert outcomes["fast-torch"].status == "ok"


def test_a_new_backend_appears_by_itself(monkeypatch):
    case = OpCase("grn", Shape(1, 3, 3, 8), SMOKE)
    assert "fast-cuda" not in providers.names(case) or "cuda" in providers.backends("grn")
    reference = cf.dispatch.implementations("grn")[-1]
    new = cf.dispatch.Implementation("cuda", reference.run, lambda spec: [])
    monkeypatch.setitem(cf.dispatch._registry, "grn", (new, reference))
    monkeypatch.setattr(cf.dispatch, "backends", lambda: {"cuda": [], "torch": []})  # as on a machine that has it
    assert providers.names(case)[:2] == ["fast-cuda", "fast-torch"]
    assert quick(case, "fast-cuda")["fast-cuda"].status == "ok"


def test_no_peer_compiles_in_smoke_but_one():
    outcome = quick(BlockCase(Shape(2, 7, 7, 8), SMOKE), "compile")["compile"]
    assert outcome.status == "skipped" and "--smoke" in outcome.reason


def test_the_roofline_counts():
    """By hand: tiny's 4.47 GMAC (of which the head is 0.77 M), and the bytes of an elementwise op."""
    work = roofline.model_work("tiny", 1, 224, 4, backward=False)
    assert work.flops / 2 == pytest.approx(4.47e9, rel=0.005)
    assert roofline.model_work("tiny", 1, 224, 4, backward=True).flops == pytest.approx(3 * work.flops)
    grn = problems.work("grn", Shape(2, 7, 7, 8), 4, backward=False)
    assert grn.bytes == 2 * (2 * 7 * 7 * 8) * 4 + 2 * 8 * 4 and grn.flops == 0
    sparse = problems.work("sparse_dwconv", Shape(1, 14, 14, 8), 4, backward=False)
    assert sparse.flops == 2 * 49 * 19 * 4 * 8, "19 of 49 patches, tiles of 2 x 2"


def test_ceilings_are_measured():
    found = roofline.ceilings("cpu", torch.float32)
    assert found.copy > 1e8 and found.gemm > 1e8
    assert found.floor(roofline.Work(found.copy, 0.0)) == pytest.approx(1.0)
    assert found.floor(roofline.Work(1.0, 2 * found.gemm)) == pytest.approx(2.0)
