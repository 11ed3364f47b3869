"""Bad input gets one clear line that names the op, what it wants and what it got."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.layouts import DenseLayout, SiteLayout
from convnextv2_fast.testing import ALL_OPS, make

Z = torch.zeros
ops = cf.ops


def dwconv(x, weight=None, bias=None, ln=None, **kw):
    c = x.shape[-1]
    one = Z(c)
    return ops.dwconv_layer_norm(
        x, Z(c, 1, 7, 7) if weight is None else weight, bias, one if ln is None else ln, one, **kw
    )


def mlp(u=None, **kw):
    u = Z(1, 2, 2, 4) if u is None else u
    named = dict(w1=Z(16, 4), b1=Z(16), gamma=Z(16), beta=Z(16), w2=Z(4, 16), b2=Z(4)) | kw
    return ops.mlp_grn(u, **named)


CASES = {
    "rank": (lambda: dwconv(Z(4, 4, 8)), r"dwconv_layer_norm: x must be \[N, H, W, C\].*got x \(4, 4, 8\) float32"),
    "integer": (
        lambda: dwconv(Z(1, 4, 4, 8, dtype=torch.int32)),
        "dwconv_layer_norm: .* must be floating point.*int32",
    ),
    "kernel": (
        lambda: dwconv(Z(1, 4, 4, 8), Z(8, 1, 3, 3)),
        r"weight \[C, 1, 7, 7\] or \[49, C\].*weight \(8, 1, 3, 3\)",
    ),
    "channels": (lambda: dwconv(Z(1, 4, 4, 8), Z(49, 9)), r"got x \(1, 4, 4, 8\) float32, weight \(49, 9\)"),
    "layer norm": (lambda: dwconv(Z(1, 4, 4, 8), ln=Z(7)), r"ln_weight \(7,\)"),
    "mixed dtypes": (lambda: dwconv(Z(1, 4, 4, 8), Z(49, 8).half()), "parameters must have x's dtype or float32"),
    "rows": (lambda: dwconv(Z(5, 8), layout=DenseLayout(1, 2, 2)), r"x must be \[4, C\], the rows of its DenseLayout"),
    "plane": (
        lambda: dwconv(Z(1, 3, 2, 8), layout=DenseLayout(1, 2, 2)),
        r"does not fit the layout's plane \(1, 2, 2\)",
    ),
    "sparse rank": (
        lambda: ops.sparse_dwconv(Z(1, 2, 2, 8), Z(49, 8), None, layout=DenseLayout(1, 2, 2)),
        r"sparse_dwconv: wants rows \[T, C\]",
    ),
    "sparse kernel": (
        lambda: ops.sparse_dwconv(Z(4, 8), Z(9, 8), None, layout=DenseLayout(1, 2, 2)),
        r"sparse_dwconv: wants kernel \[49, C\]",
    ),
    "grn elements": (lambda: ops.grn(Z(1, 2, 2, 8), Z(7), Z(8)), r"grn: .*gamma \(7,\)"),
    "grn rank": (lambda: ops.grn(Z(2, 2, 8), Z(8), Z(8)), r"grn: wants x \[N, H, W, C\] or \[T, C\]"),
    "grn groups": (
        lambda: ops.grn(Z(6, 8), Z(8), Z(8), rows_per_group=4),
        "rows_per_group=4 does not divide the 6 rows",
    ),
    "grn no groups": (lambda: ops.grn(Z(6, 8), Z(8), Z(8)), r"rows_per_group is needed for \[T, C\] rows"),
    "layer_norm": (lambda: ops.layer_norm(Z(2, 8), Z(8), Z(4)), r"layer_norm: wants x \[..., C\].*bias \(4,\)"),
    "mlp w1": (lambda: mlp(w1=Z(16, 5)), r"mlp_grn: wants u .*w1 \(16, 5\)"),
    "mlp w2": (lambda: mlp(w2=Z(4, 15)), r"mlp_grn: .*w2 \(4, 15\)"),
    "mlp residual": (lambda: mlp(residual=Z(1, 2, 2, 5)), r"mlp_grn: residual must be \(1, 2, 2, 4\)"),
    "mlp row_scale": (lambda: mlp(row_scale=Z(3)), r"mlp_grn: row_scale must be \[R\]"),
    "mlp strategy": (lambda: mlp(strategy="fastest"), "unknown strategy 'fastest'; choose one of materialize"),
    "patch too small": (
        lambda: ops.patch_conv(Z(1, 3, 4, 3), Z(5, 3, 4, 4), Z(5)),
        "patch_conv: H and W must be at least k=4",
    ),
    "patch weight": (lambda: ops.patch_conv(Z(1, 4, 4, 3), Z(5, 3, 4, 3), Z(5)), r"weight \(5, 3, 4, 3\)"),
    "patch rank": (lambda: ops.patch_conv(Z(4, 3), Z(5, 3, 2, 2), Z(5)), r"patch_conv: wants \[N, H, W, Cin\]"),
    "patch norm": (
        lambda: ops.patch_conv(Z(1, 4, 4, 3), Z(5, 3, 4, 4), Z(5), norm_after=(Z(3), Z(3))),
        r"norm_after must be two tensors \[5\]",
    ),
    "patch layout": (
        lambda: ops.patch_conv(Z(1, 8, 8, 3), Z(5, 3, 4, 4), Z(5), layout=SiteLayout.from_mask(Z(1, 3, 2))),
        r"does not fit a result of \(N, H, W\) = \(1, 3, 2\) at k=4",
    ),
    "device": (
        lambda: dwconv(Z(1, 4, 4, 8), Z(49, 8, device="meta")),
        "weight is on meta, x on cpu; move them together",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name):
    call, message = CASES[name]
    with pytest.raises(cf.UnsupportedInputError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(("x", "params"), [(F64, F16), (F32, F64), (F16, BF16), (BF16, F64)], ids=str)
@pytest.mark.parametrize("op", ALL_OPS)
def test_parameters_of_another_dtype(op, x, params):
    """Both dtypes by name, and both conversions that would work."""
    problem = make(op, 1, 4, 4, 8, "rows").to(x, False, param_dtype=params)
    names = [str(dtype).removeprefix("torch.") for dtype in (x, params)]
    wants = rf"x is {names[0]} and \w+ {names[1]}, .*x\.to\({params}\) or .*model\.to\({x}\)$"
    with pytest.raises(cf.UnsupportedInputError, match=wants):
        problem.public()


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", [F64, F16, BF16], ids=str)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_images_of_another_dtype_than_the_model(kind, dtype, grad):
    """The first layer says so, as PyTorch's convolutions do, not the head after everything else has run."""
    sizes = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    if kind == "dense":
        model = cf.ConvNeXtV2(num_classes=3, **sizes)
    else:
        model = cf.fcmae.FCMAE(img_size=64, decoder_depth=1, decoder_embed_dim=8, patch_size=32, **sizes)
    name = str(dtype).removeprefix("torch.")
    wants = rf"^patch_conv: the input is {name} and the weight float32; .*x\.to\(torch.float32\).*model\.to\({dtype}\)"
    images = Z(1, 3, 64, 64, dtype=dtype)
    with torch.set_grad_enabled(grad), pytest.raises(cf.UnsupportedInputError, match=wants) as e:
        model(images)
    assert "\n" not in str(e.value) and ("autocast" in str(e.value)) == (dtype != F64)
    if dtype == BF16 and kind == "dense":
        with torch.autocast("cpu", dtype=dtype):
            assert model(images).isfinite().all()
