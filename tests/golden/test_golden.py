"""Every golden vector of the real FCMAE on the real MinkowskiEngine, reproduced by ours: outputs and all gradients."""

import pytest
import torch
from torch import Tensor

import convnextv2_fast as cf
from convnextv2_fast.layouts import DenseLayout, SiteLayout, SparseTensor
from convnextv2_fast.models.convnextv2_sparse import Block as SparseBlock
from convnextv2_fast.models.fcmae import FCMAE
from convnextv2_fast.ops._shared.checks import conv2d_weight, taps

from . import vectors

# Relative to the largest reference element; what two right implementations meet, see the golden vectors' origin.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = [torch.float32, torch.float64]


def close(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    scale = want.abs().max().clamp_min(1e-30).double()
    error = ((got.detach().double().reshape(want.shape) - want.double()).abs().max() / scale).item()
    assert error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}"


def suffix(dtype: torch.dtype) -> str:
    return "_f64" if dtype == torch.float64 else ""


def leaves(data: dict[str, Tensor], dtype: torch.dtype, *names: str) -> list[Tensor]:
    return [data[n].to(dtype).requires_grad_() for n in names]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_dwconv(dtype):
    g = vectors.arrays("op_dwconv7_blocky")
    layout = site_layout(g)
    x, kernel, bias = leaves(g, dtype, "feats", "kernel", "bias")
    y = cf.ops.sparse_dwconv(x, kernel, bias, layout=layout)
    y.backward(g["grad_out"].to(dtype))
    tail, tolerance = suffix(dtype), TOLERANCE[dtype]
    close(y, g["out" + tail], tolerance, "out")
    for tensor, name in ((x, "feats"), (kernel, "kernel"), (bias, "bias")):
        close(tensor.grad, g[f"grad_{name}{tail}"], tolerance, f"grad_{name}")


def site_layout(g: dict[str, Tensor]) -> SiteLayout:
    """In MinkowskiEngine's row order, whatever it is."""
    return SiteLayout.from_coordinates(g["coords"], tuple(int(v) for v in g["spatial"]))


def test_tap_order_of_the_stored_conv2d_weight():
    g = vectors.arrays("op_dwconv7_blocky")
    assert torch.equal(conv2d_weight(g["kernel"]), g["weight_conv2d"])
    assert torch.equal(taps(g["weight_conv2d"]), g["kernel"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_downsampling(dtype):
    g = vectors.arrays("op_conv_k2s2_blocky")
    layout = site_layout(g)
    x, kernel, bias = leaves(g, dtype, "feats", "kernel", "bias")
    y = cf.ops.patch_conv(x, kernel, bias, layout=layout)
    coarse = layout.coarsen(2)[0]
    stride = int(g["out_tensor_stride"][0])
    want_coords = g["out_coords"].long() // torch.tensor([1, stride, stride])
    ours = {tuple(c): i for i, c in enumerate(coarse.coordinates.tolist())}
    rows = torch.tensor([ours.pop(tuple(c)) for c in want_coords.tolist()])
    assert not ours, "sites that MinkowskiEngine does not have"
    y[rows].backward(g["grad_out"].to(dtype))
    tail, tolerance = suffix(dtype), TOLERANCE[dtype]
    close(y[rows], g["out" + tail], tolerance, "out")
    for tensor, name in ((x, "feats"), (kernel, "kernel"), (bias, "bias")):
        close(tensor.grad, g[f"grad_{name}{tail}"], tolerance, f"grad_{name}")
    dense = torch.nn.functional.conv2d(layout.to_dense(x).permute(0, 3, 1, 2), g["weight_conv2d"].to(dtype), stride=2)
    close(coarse.from_dense(dense.permute(0, 2, 3, 1)) + bias, y, tolerance, "against the stored conv2d weight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_grn(dtype):
    g = vectors.arrays("op_grn")
    x, gamma, beta = leaves(g, dtype, "feats", "gamma", "beta")
    y = cf.ops.grn(x, gamma, beta, eps=float(g["eps"]), rows_per_group=x.shape[0])
    y.backward(g["grad_out"].to(dtype))
    tail, tolerance = suffix(dtype), TOLERANCE[dtype]
    close(y, g["out" + tail], tolerance, "out")
    for tensor, name in ((x, "feats"), (gamma, "gamma"), (beta, "beta")):
        close(tensor.grad, g[f"grad_{name}{tail}"], tolerance, f"grad_{name}")


@pytest.mark.parametrize("fused", [True, False], ids=["ops", "modules"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_block(dtype, fused):
    g = vectors.arrays("op_block16")
    layout = site_layout(g)
    block = SparseBlock(16, D=2).to(dtype)
    block.load_state_dict({k[3:]: v for k, v in g.items() if k.startswith("sd/")})
    seen: dict[str, Tensor] = {}
    if not fused:
        for name in ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2"):
            getattr(block, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.F}))
    x = g["feats"].to(dtype).requires_grad_()
    y = block(SparseTensor(x, layout)).F
    y.backward(g["grad_out"].to(dtype))
    tail, tolerance = suffix(dtype), TOLERANCE[dtype]
    close(y, g["out" + tail], tolerance, "out")
    close(x.grad, g["grad_feats" + tail], 2 * tolerance, "grad_feats")
    assert len(seen) == (0 if fused else 6)
    for name, rows in seen.items():
        close(rows, g[f"inter/{name}"], 1e-5, name)
    for name, p in block.named_parameters():
        # float32 gradients are stored in float64 precision too: both runs are judged by that one
        close(p.grad, g[f"grad_f64/{name}"], 2 * tolerance, name)


def test_dense_shape_comes_from_the_layout():
    """MinkowskiEngine drops all-zero sites and shrinks dense(); ours keeps the layout's sites and size, by design."""
    g = vectors.arrays("op_to_sparse_dense")
    x = g["x"]  # [N, C, H, W]
    active = x.abs().sum(1) != 0
    layout = SiteLayout.from_mask(active)
    rows = layout.from_dense(x.permute(0, 2, 3, 1))
    assert torch.equal(layout.coordinates, g["coords"].long())
    assert torch.equal(rows, g["feats"])
    dense = SparseTensor(rows, layout).dense()[0]
    assert torch.equal(dense, x)
    shrunk = g["dense_default"]
    assert shrunk.shape[2] < x.shape[2] and torch.equal(dense[:, :, : shrunk.shape[2], : shrunk.shape[3]], shrunk)
    assert DenseLayout(*active.shape).rows == active.numel()


def run_model(dtype: torch.dtype):
    mae = FCMAE(**vectors.CONFIG).to(dtype)
    mae.load_state_dict(vectors.state_dict(dtype))
    mask = vectors.arrays("fcmae_outputs")["mask"]
    stages: dict[int, SparseTensor] = {}
    for i, stage in enumerate(mae.encoder.stages):
        stage[-1].register_forward_hook(lambda m, a, o, i=i: stages.update({i: o}))
    encoded: list[Tensor] = []
    mae.encoder.register_forward_hook(lambda m, a, o: (o.retain_grad(), encoded.append(o))[0])
    loss, pred, _ = mae(vectors.images(dtype), mask=mask)
    loss.backward()
    return mae, loss, pred, encoded[0], stages


def run_reference(dtype: torch.dtype):
    params = {k: v.requires_grad_() for k, v in vectors.state_dict(dtype).items()}
    mask = vectors.arrays("fcmae_outputs")["mask"]
    loss, pred, _ = cf.reference.fcmae(params, vectors.images(dtype), mask)
    loss.backward()
    return params, loss, pred


def check_gradients(found: dict[str, Tensor], dtype: torch.dtype) -> None:
    want = vectors.gradients()
    assert found.keys() == want.keys() and len(want) == 81
    for name, g in want.items():
        stored32 = name == "pred.weight"
        close(found[name], g, 2e-5 if dtype == torch.float32 else (1e-7 if stored32 else TOLERANCE[dtype]), name)
    if dtype == torch.float64:
        from numpy import load

        with load(vectors.HERE / "fcmae_gradient_pred.npz") as z:
            got = vectors.fingerprint(found["pred.weight"], "pred.weight")
            assert abs(got - float(z["fingerprint"])) <= 1e-11 * float(z["norm"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_fcmae(dtype):
    mae, loss, pred, encoded, stages = run_model(dtype)
    g = vectors.arrays("fcmae_outputs")
    tolerance = TOLERANCE[dtype]
    head = "f64/" if dtype == torch.float64 else ""
    close(loss.view(1), g[f"{head}loss"], tolerance, "loss")
    close(encoded, g[f"{head}enc_out"], tolerance, "encoder")
    close(encoded.grad, g["f64/grad_enc_out"], 2 * tolerance, "grad of the encoder's output")
    close(pred, g["pred"], 1e-5, "pred")
    for i, x in stages.items():
        rows = {tuple(c): r for c, r in zip(x.C.tolist(), x.F, strict=True)}
        coords = g[f"stage{i}/coords"].long() // torch.tensor([1, 2**i, 2**i])
        assert len(rows) == len(coords)
        close(torch.stack([rows[tuple(c)] for c in coords.tolist()]), g[f"stage{i}/feats"], 1e-5, f"stage {i}")
    check_gradients({k: p.grad for k, p in mae.named_parameters()}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_fcmae(dtype):
    params, loss, pred = run_reference(dtype)
    g = vectors.arrays("fcmae_outputs")
    close(loss.view(1), g["f64/loss"], TOLERANCE[dtype], "loss")
    close(pred, g["pred"], 1e-5, "pred")
    check_gradients({k: p.grad for k, p in params.items()}, dtype)
