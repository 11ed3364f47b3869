"""FCMAE: upstream's names, counts, random draws and values; other sizes, masks, patch sizes and channels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnextv2_fast as cf
import convnextv2_fast.models.fcmae as fcmae
from convnextv2_fast.models.convnextv2 import SIZES
from convnextv2_fast.models.fcmae import FCMAE
from tests import peers

COUNTS = {  # parameters, state_dict keys: upstream's
    "atto": (7_257_992, 151),
    "femto": (8_751_472, 151),
    "pico": (12_521_792, 151),
    "nano": (19_016_592, 171),
    "tiny": (31_965_568, 211),
    "base": (91_922_432, 391),
    "large": (200_910_592, 391),
    "huge": (662_616_192, 391),
}
SMALL = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 40], "decoder_embed_dim": 16}


def small(**kwargs) -> FCMAE:
    torch.manual_seed(0)
    mae = FCMAE(**{**SMALL, "init": "std02", **kwargs})
    for name, p in mae.named_parameters():
        if "grn" in name or name.endswith("bias"):
            nn.init.normal_(p, std=0.3)
    return mae


@pytest.mark.parametrize("size", SIZES)
def test_names_and_counts(size):
    with torch.device("meta"):
        mae = fcmae.__dict__[f"convnextv2_{size}"](init="std02")
    sd = mae.state_dict()
    c0, c1 = SIZES[size][1][:2]
    assert (sum(p.numel() for p in mae.parameters()), len(sd)) == COUNTS[size]
    want = {
        "mask_token": (1, 512, 1, 1),
        "encoder.downsample_layers.0.0.weight": (c0, 3, 4, 4),
        "encoder.downsample_layers.1.0.ln.weight": (c0,),
        "encoder.downsample_layers.1.1.kernel": (4, c0, c1),
        "encoder.downsample_layers.1.1.bias": (1, c1),
        "encoder.stages.1.0.dwconv.kernel": (49, c1),
        "encoder.stages.1.0.dwconv.bias": (1, c1),
        "encoder.stages.1.0.norm.ln.weight": (c1,),
        "encoder.stages.1.0.pwconv1.linear.weight": (4 * c1, c1),
        "encoder.stages.1.0.grn.gamma": (1, 4 * c1),
        "decoder.0.dwconv.weight": (512, 1, 7, 7),
        "decoder.0.grn.gamma": (1, 1, 1, 2048),
        "proj.weight": (512, SIZES[size][1][3], 1, 1),
        "pred.weight": (3072, 512, 1, 1),
    }
    assert {k: tuple(sd[k].shape) for k in want} == want


def test_upstream_style_code_runs():
    mae = fcmae.__dict__["convnextv2_base"](mask_ratio=0.6, decoder_depth=1, decoder_embed_dim=512, norm_pix_loss=True)
    assert (mae.imds, mae.num_patches, mae.norm_pix_loss) == ([128, 256, 512, 1024], 49, True)
    mae = fcmae.convnextv2_atto(init="std02")
    loss, pred, mask = mae(torch.randn(2, 3, 224, 224), None, mask_ratio=0.6)
    assert loss.shape == () and pred.shape == (2, 3072, 7, 7) and mask.shape == (2, 49)
    assert mask.dtype == torch.float32 and (mask == 0).sum(1).tolist() == [19, 19]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mae.parameters())


def test_mask_draws_upstreams_numbers():
    mae, x = small(), torch.zeros(3, 3, 224, 224)
    torch.manual_seed(4)
    ids = torch.argsort(torch.randn(3, 49), dim=1)
    want = torch.ones(3, 49).scatter(1, ids[:, :19], 0.0)
    torch.manual_seed(4)
    assert torch.equal(mae.gen_random_mask(x, 0.6), want)


def test_initialisation_draws_upstreams_numbers():
    """MinkowskiEngine's constructors, the encoder's own pass, FCMAE's pass with a mask token drawn at every module."""
    peers.timm()
    from timm.layers import trunc_normal_

    depths, dims, width = SMALL["depths"], SMALL["dims"], 16
    kinds: list[tuple[str, str]] = []  # (kind, name) of every module in apply order, by hand
    stem = [("conv", "encoder.downsample_layers.0.0"), ("", ""), ("", "")]
    downs = [m for i in (1, 2, 3) for m in (("", ""), ("", ""), ("k2", f"encoder.downsample_layers.{i}.1"), ("", ""))]
    kinds += [*stem, *downs, ("", "ModuleList")]
    for i, depth in enumerate(depths):
        for j in range(depth):
            b = f"encoder.stages.{i}.{j}"
            kinds += [("dw", f"{b}.dwconv"), ("", "ln"), ("", "norm"), ("", "linear"), ("lin", f"{b}.pwconv1.linear")]
            kinds += [("", "gelu"), ("", "act"), ("", "linear"), ("lin", f"{b}.pwconv2.linear"), ("", "grn")]
            kinds += [("", "drop_path"), ("", "block")]
        kinds.append(("", "Sequential"))
    encoder = [*kinds, ("", "ModuleList"), ("", "encoder")]
    decoder = [("conv", "decoder.0.dwconv"), *[("", "")] * 6, ("", "block"), ("", "Sequential")]

    torch.manual_seed(11)
    w: dict[str, torch.Tensor] = {}

    def torch_default(name: str, layer: nn.Module) -> None:
        w[name] = layer.weight.data

    def uniform(name: str, *shape: int) -> None:
        w[name] = torch.empty(*shape).uniform_(-1, 1)
        torch.empty(1, shape[-1]).uniform_(-1, 1)  # the bias

    torch_default("encoder.downsample_layers.0.0", nn.Conv2d(3, dims[0], 4, 4))
    for i in range(3):
        uniform(f"encoder.downsample_layers.{i + 1}.1", 4, dims[i], dims[i + 1])
    for i, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        for j in range(depth):
            uniform(f"encoder.stages.{i}.{j}.dwconv", 49, c)
            torch_default(f"encoder.stages.{i}.{j}.pwconv1.linear", nn.Linear(c, 4 * c))
            torch_default(f"encoder.stages.{i}.{j}.pwconv2.linear", nn.Linear(4 * c, c))
    for kind, name in encoder:
        if kind in ("k2", "dw", "lin"):
            trunc_normal_(w[name], std=0.02)
    torch_default("proj", nn.Conv2d(dims[3], width, 1))
    torch_default("decoder.0.dwconv", nn.Conv2d(width, width, 7, padding=3, groups=width))
    torch_default("decoder.0.pwconv1", nn.Linear(width, 4 * width))
    torch_default("decoder.0.pwconv2", nn.Linear(4 * width, width))
    torch_default("pred", nn.Conv2d(width, 3072, 1))
    token = torch.zeros(1, width, 1, 1)
    for kind, name in [*encoder, ("conv", "proj"), *decoder, ("conv", "pred"), ("", "self")]:
        if kind:
            trunc_normal_(w[name], std=0.02 if kind == "k2" else 1.0)
        token.normal_(std=0.02)
    after = torch.rand(1)

    torch.manual_seed(11)
    mae = FCMAE(**SMALL)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(mae.mask_token, token)
    for name, value in w.items():
        m = mae.get_submodule(name)
        assert torch.equal(m.kernel if hasattr(m, "kernel") else m.weight, value), name


def masked_dense(mae: FCMAE, imgs, mask, grn_scope="batch"):
    """The encoder by masked dense convolutions on weights in dense layout: independent of layouts and rows."""
    sd, p = mae.state_dict(), mae.patch_size
    n, _, h, w = imgs.shape
    keep = 1 - mask.view(n, 1, h // p, w // p)
    x = F.conv2d(imgs, sd["encoder.downsample_layers.0.0.weight"], sd["encoder.downsample_layers.0.0.bias"], stride=4)

    def ln(x, name):
        y = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], sd[f"{name}.weight"], sd[f"{name}.bias"], 1e-6)
        return y.permute(0, 3, 1, 2)

    x = ln(x, "encoder.downsample_layers.0.1")
    active = F.interpolate(keep, size=x.shape[2:], mode="nearest")
    for i, stage in enumerate(mae.encoder.stages):
        if i:
            d = f"encoder.downsample_layers.{i}"
            k = sd[f"{d}.1.kernel"]
            weight = k.view(2, 2, *k.shape[1:]).permute(3, 2, 1, 0)
            x = F.conv2d(ln(x, f"{d}.0.ln") * active, weight, sd[f"{d}.1.bias"].view(-1), stride=2)
            active = F.max_pool2d(active, 2)
        for j in range(len(stage)):
            b = f"encoder.stages.{i}.{j}"
            weight = sd[f"{b}.dwconv.kernel"].view(7, 7, -1).permute(2, 1, 0).unsqueeze(1)
            y = F.conv2d(x * active, weight, sd[f"{b}.dwconv.bias"].view(-1), padding=3, groups=x.shape[1])
            y = ln(y, f"{b}.norm.ln").permute(0, 2, 3, 1)
            y = F.gelu(F.linear(y, sd[f"{b}.pwconv1.linear.weight"], sd[f"{b}.pwconv1.linear.bias"]))
            seen = y * active.permute(0, 2, 3, 1)
            g = seen.square().sum((0, 1, 2) if grn_scope == "batch" else (1, 2), keepdim=True).sqrt()
            y = sd[f"{b}.grn.gamma"] * (y * (g / (g.mean(-1, keepdim=True) + 1e-6))) + sd[f"{b}.grn.beta"] + y
            y = F.linear(y, sd[f"{b}.pwconv2.linear.weight"], sd[f"{b}.pwconv2.linear.bias"])
            x = x + y.permute(0, 3, 1, 2)
    return x * active


CASES = [  # patch size, (H, W), in_chans
    (32, (64, 64), 3),
    (32, (96, 160), 1),
    (16, (64, 96), 4),
    (8, (32, 64), 3),
    (4, (32, 32), 2),
    (64, (128, 192), 3),
]


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize(("patch", "size", "chans"), CASES)
def test_sizes_patches_and_channels(patch, size, chans, scope):
    mae = small(patch_size=patch, in_chans=chans, grn_scope=scope).double()
    imgs = torch.randn(3, chans, *size, dtype=torch.float64)
    torch.manual_seed(1)
    loss, pred, mask = mae(imgs, mask_ratio=0.5)
    h, w = size[0] // patch, size[1] // patch
    assert mask.shape == (3, h * w) and pred.shape == (3, patch**2 * chans, h, w)
    want = masked_dense(mae, imgs, mask.double(), scope)
    torch.testing.assert_close(mae.encoder(imgs, mask), want, rtol=1e-10, atol=1e-10)
    options = {"patch_size": patch, "grn_scope": scope}
    ref = cf.reference.fcmae(mae.state_dict(), imgs, mask, **options)
    torch.testing.assert_close(loss, ref[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pred, ref[1], rtol=1e-9, atol=1e-10)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in mae.parameters())


def test_given_masks_with_unequal_counts():
    mae = small().double()
    imgs = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 1, 1]], dtype=torch.float64)
    loss, _, back = mae(imgs, mask=mask.view(3, 3, 2))
    assert torch.equal(back, mask)
    mask[2] = 1  # the encoder alone gives zeros for a sample without a visible patch
    for scope in ("batch", "sample"):
        model = small(grn_scope=scope).double()
        torch.testing.assert_close(model.encoder(imgs, mask), masked_dense(model, imgs, mask, scope))
    assert loss.isfinite()


def test_masked_pixels_do_not_reach_the_encoder():
    mae = small()
    imgs = torch.randn(1, 3, 64, 64)
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    spoiled = imgs.clone()
    spoiled[:, :, :32, :32] = float("nan")
    assert torch.equal(mae.encoder(imgs, mask), mae.encoder(spoiled, mask))


@pytest.mark.parametrize("full_pred", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.88])
def test_mask_ratios(ratio, full_pred):
    mae = small()
    imgs = torch.randn(2, 3, 96, 96)
    loss, _, mask = mae(imgs, mask_ratio=ratio, full_pred=full_pred)
    assert (mask == 0).sum().item() == 2 * int(9 * (1 - ratio))
    assert loss.isfinite() == (ratio > 0)  # nothing removed: 0/0, as upstream


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize(("full_pred", "shape"), [(True, (0, 3072, 2, 3)), (False, (0, 3072))])
@pytest.mark.parametrize("mask", [None, torch.zeros(0, 6), torch.zeros(0, 2, 3)], ids=["drawn", "rows", "grid"])
def test_an_empty_batch(mask, full_pred, shape, norm_pix_loss, scope):
    """As PyTorch's modules: the mean of nothing is NaN, and its gradients are zero."""
    mae = small(norm_pix_loss=norm_pix_loss, grn_scope=scope)
    loss, pred, back = mae(torch.zeros(0, 3, 64, 96), mask=mask, full_pred=full_pred)
    assert loss.isnan() and pred.shape == shape and back.shape == (0, 6)
    assert mae.encoder(torch.zeros(0, 3, 64, 96), mask).shape == (0, 40, 2, 3)
    loss.backward()
    assert all(not p.grad.any() for p in mae.parameters())


def test_all_zero_visible_patch_stays_active():
    """Upstream would drop it, its sites being zero at initialisation; ours keeps it, by design."""
    mae = FCMAE(**SMALL)
    imgs, mask = torch.zeros(1, 3, 64, 64), torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert mae.encoder(imgs, mask).shape == (1, 40, 2, 2)


def test_encoder_without_a_mask_is_the_dense_model():
    mae = small(grn_scope="sample")
    dense = cf.ConvNeXtV2(depths=SMALL["depths"], dims=SMALL["dims"])
    encoder = {k.removeprefix("encoder."): v for k, v in mae.state_dict().items() if k.startswith("encoder.")}
    missing = {k for k in dense.state_dict() if k.startswith(("norm.", "head."))}
    report = cf.load_checkpoint(dense, encoder)
    assert set(report.left_at_init) == missing
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(mae.encoder(x), dense.forward_features_list(x)[3], rtol=1e-4, atol=1e-5)


def test_patchify():
    mae = small(in_chans=4)
    imgs = torch.randn(2, 4, 64, 96)
    x = mae.patchify(imgs)
    assert x.shape == (2, 6, 32 * 32 * 4)
    assert torch.equal(x[1, 4].view(32, 32, 4), imgs[1, :, 32:, 32:64].permute(1, 2, 0))
    assert torch.equal(mae.unpatchify(x, (2, 3)), imgs)
    with pytest.raises(cf.UnsupportedInputError, match="grid"):
        mae.unpatchify(x)


@pytest.mark.parametrize(
    ("patch", "channels", "size"), [(8, 1, (64, 64)), (16, 1, (256, 256)), (4, 4, (32, 64)), (32, 3, (64, 96))]
)
def test_unpatchify_takes_what_forward_predicts(patch, channels, size):
    mae = small(patch_size=patch, in_chans=channels)
    imgs, grid = torch.randn(2, channels, *size), (size[0] // patch, size[1] // patch)
    pred = mae.patchify(imgs).transpose(1, 2).unflatten(2, grid)
    assert torch.equal(mae.unpatchify(pred), imgs) and torch.equal(mae.unpatchify(pred, grid), imgs)
    assert mae.forward_loss(imgs, pred, torch.ones(2, grid[0] * grid[1])) == 0


def test_norm_pix_loss():
    mae = small(norm_pix_loss=True)
    imgs, mask = torch.randn(1, 3, 64, 64), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    pred = torch.randn(1, 3072, 2, 2)
    t = mae.patchify(imgs)[0, [0, 2]]
    t = (t - t.mean(1, keepdim=True)) / (t.var(1, keepdim=True) + 1e-6).sqrt()
    want = ((pred.flatten(2)[0].T[[0, 2]] - t) ** 2).mean()
    torch.testing.assert_close(mae.forward_loss(imgs, pred, mask), want)
    torch.testing.assert_close(mae.forward_loss(imgs, pred.flatten(2).transpose(1, 2), mask), want)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize(("patch", "size", "chans"), CASES)
def test_removed_patches_alone_give_the_same_loss_and_gradients(patch, size, chans, norm_pix_loss):
    mae = small(patch_size=patch, in_chans=chans, norm_pix_loss=norm_pix_loss).double()
    imgs = torch.randn(3, chans, *size, dtype=torch.float64)
    length = (size[0] // patch) * (size[1] // patch)
    masks = [mae.gen_random_mask(imgs, 0.5), (torch.rand(3, length) < 0.7).float()]
    masks[1][:, 0], masks[1][:, -1] = 1.0, 0.0  # samples keep different numbers
    for mask, kept in zip(masks, (int(length * 0.5), None), strict=True):
        found = []
        for full in (True, False):
            mae.zero_grad()
            loss, pred, back = mae(imgs, mask=mask, kept=kept, full_pred=full)
            loss.backward()
            found.append((loss.detach(), pred.detach(), {k: p.grad.clone() for k, p in mae.named_parameters()}))
            assert torch.equal(back, mask)
        rows = found[0][1].permute(0, 2, 3, 1).flatten(0, 2)[mask.flatten().bool()]
        torch.testing.assert_close(found[1][1], rows)
        torch.testing.assert_close(found[1][0], found[0][0])
        for name, g in found[0][2].items():
            torch.testing.assert_close(found[1][2][name], g, msg=name)


def test_the_images_are_not_overwritten():
    """One patch of one channel: patchify is a view of the image then."""
    mae = small(in_chans=1)
    imgs = torch.randn(2, 1, 32, 32)
    before = imgs.clone()
    for full in (True, False):
        mae(imgs, mask=torch.zeros(2, 1), full_pred=full)[0].backward()
    mae.forward_loss(imgs, torch.randn(2, 1024, 1, 1, requires_grad=True), torch.ones(2, 1)).backward()
    assert torch.equal(imgs, before)


@pytest.mark.parametrize("name", ["proj", "pred"])
def test_hooks_on_the_pointwise_layers_run(name):
    mae, imgs = small().double(), torch.randn(2, 3, 64, 64).double()
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1]])
    layer = getattr(mae, name)
    twin = copy.deepcopy(mae)
    with torch.no_grad():
        for p in getattr(twin, name).parameters():
            p.mul_(2)
    layer.register_forward_hook(lambda m, a, y: 2 * y)
    torch.testing.assert_close(mae(imgs, mask=mask)[1], twin(imgs, mask=mask)[1])


def test_a_replaced_prediction_layer_is_honoured():
    mae = small().double()
    imgs, mask = torch.randn(2, 3, 64, 64).double(), torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1]])
    mae.pred.register_forward_hook(lambda m, a, y: 2 * y)
    full = mae(imgs, mask=mask)
    torch.testing.assert_close(mae(imgs, mask=mask, full_pred=False)[0], full[0])


@pytest.mark.parametrize("full_pred", [True, False])
def test_extreme_masks(full_pred):
    """The last row removed everywhere (upstream's map shrinks), one visible patch, batch 1, an image of zeros."""
    mae, length = small(), 9
    last_row = torch.tensor([[0.0] * 6 + [1.0] * 3])
    one = torch.ones(1, length)
    one[0, 4] = 0
    for imgs in (torch.randn(1, 3, 96, 96), torch.zeros(1, 3, 96, 96)):
        for mask in (last_row, one):
            mae.zero_grad()
            loss, _, _ = mae(imgs, mask=mask, full_pred=full_pred)
            loss.backward()
            assert loss.isfinite() and all(p.grad.isfinite().all() for p in mae.parameters())
        assert mae.encoder(imgs, last_row).shape == (1, 40, 3, 3)
        want = masked_dense(small().double(), imgs.double(), last_row.double())
        torch.testing.assert_close(small().double().encoder(imgs.double(), last_row), want)


@pytest.mark.parametrize("kept", ["equal", "unequal"])
def test_sparse_drop_path_is_per_sample(kept):
    mae = small(grn_scope="sample").train()
    mask = torch.tensor([[0.0, 1, 1, 0], [0, 1, 1, 0] if kept == "equal" else [0, 0, 0, 1]])
    for block in (b for s in mae.encoder.stages for b in s):
        block.drop_path.drop_prob = 1 - 1e-9  # all dropped but by a miracle
    imgs = torch.randn(2, 3, 64, 64)
    dropped = mae.encoder(imgs, mask)
    for block in (b for s in mae.encoder.stages for b in s):
        block.drop_path.drop_prob = 0.0
        nn.init.zeros_(block.pwconv2.linear.weight), nn.init.zeros_(block.pwconv2.linear.bias)
    torch.testing.assert_close(dropped, mae.encoder(imgs, mask))
    drop = cf.utils.MinkowskiDropPath(0.5).train()
    from convnextv2_fast.layouts import PatchLayout, SparseTensor

    layout = PatchLayout.from_mask(mask, 2)
    x = SparseTensor(torch.ones(layout.rows, 3), layout)
    torch.manual_seed(0)
    y = drop(x).F
    samples = x.C[:, 0]
    assert all(y[samples == n].unique().numel() == 1 for n in (0, 1)) and set(y.unique().tolist()) <= {0.0, 2.0}


def test_grad_checkpointing_and_compile():
    mae = small().train()
    imgs, mask = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0]])
    grads = []
    for enable in (False, True):
        mae.set_grad_checkpointing(enable)
        mae.zero_grad()
        mae(imgs, mask=mask)[0].backward()
        grads.append({k: p.grad.clone() for k, p in mae.named_parameters()})
    for k, g in grads[0].items():
        torch.testing.assert_close(grads[1][k], g)
    mae.set_grad_checkpointing(False)
    mae.zero_grad()
    compiled = torch.compile(mae, fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    loss = compiled(imgs)[0]
    loss.backward()
    torch.manual_seed(2)
    torch.testing.assert_close(loss, mae(imgs)[0], rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_autocast():
    mae, imgs = small(), torch.randn(2, 3, 64, 64)
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0]])
    want = mae(imgs, mask=mask)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, _ = mae(imgs, mask=mask)
    assert loss.dtype == torch.float32 and abs(loss - want) < 0.02 * want
    loss.backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(2, 3, 64)), r"FCMAE: wants floating-point images \[N, 3, H, W\], got \(2, 3, 64\)"),
        (lambda m: m(torch.zeros(2, 1, 64, 64)), r"got \(2, 1, 64, 64\)"),
        (lambda m: m(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)), r"torch.uint8"),
        (lambda m: m(torch.zeros(2, 3, 64, 80)), r"multiples of the patch size 32, got 64x80"),
        (lambda m: m(torch.zeros(2, 3, 16, 16)), r"multiples of the patch size 32, got 16x16"),
        (lambda m: m(torch.zeros(2, 3, 64, 64), mask=torch.zeros(2, 5)), r"2x2 patches .* \[2, 4\] or .*got \(2, 5\)"),
        (lambda m: m(torch.zeros(2, 3, 64, 64), mask_ratio=1.5), r"mask_ratio must lie in \[0, 1\]"),
        (lambda m: m.encoder(torch.zeros(2, 3, 64, 64), torch.zeros(2, 5)), r"SparseConvNeXtV2: "),
        (lambda m: m.encoder(torch.zeros(2, 3, 64, 96), torch.zeros(2, 3, 2), 32), r"2x3 patches .*got \(2, 3, 2\)"),
        (lambda m: m(torch.zeros(2, 3, 64, 96), mask=torch.zeros(2, 3, 2)), r"2x3 patches .*got \(2, 3, 2\)"),
        (
            lambda m: m.encoder(torch.zeros(2, 3, 64, 64), torch.zeros(2, 4), kept=1),
            r"kept=1, .* 4 patches of sample 0",
        ),
        (lambda m: m.upsample_mask(torch.zeros(2, 8), 2), r"8 patches are no square"),
        (lambda m: m.upsample_mask(torch.zeros(8), 2), r"wants \[N, L\] or \[N, h, w\]"),
        (lambda m: m.unpatchify(torch.zeros(2, 4, 768)), r"wants \[N, L, 3072\] or .*got \(2, 4, 768\)"),
        (lambda m: m.unpatchify(torch.zeros(2, 3072, 4)), r"wants \[N, L, 3072\]"),
        (lambda m: m.unpatchify(torch.zeros(4, 3072)), r"wants \[N, L, 3072\]"),
        (lambda m: m.unpatchify(torch.zeros(2, 3072, 2, 3), (3, 2)), r"2x3 patches are no 3x2 grid"),
        (lambda m: m.forward_decoder(torch.zeros(2, 40, 2, 3), torch.zeros(2, 3, 2)), r"2x3 patches"),
        (
            lambda m: m.forward_loss(torch.zeros(2, 3, 64, 96), torch.zeros(2, 3072, 3, 2), torch.ones(2, 6)),
            r"have 2x3 patches each, the predictions are \(2, 3072, 3, 2\)",
        ),
        (
            lambda m: m.forward_loss(torch.zeros(2, 3, 64, 96), torch.zeros(2, 3072, 6), torch.ones(2, 6)),
            r"forward_loss: .*wants \[N, L, 3072\]",
        ),
        (lambda m: FCMAE(patch_size=24), r"patch_size must be 4 x 2\*\*k, got 24"),
        (lambda m: FCMAE(init="xavier"), r"init must be"),
        (lambda m: FCMAE(grn_scope="row"), r"grn_scope must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(cf.UnsupportedInputError, match=message):
        call(small())


ALL, ONE = [1.0, 1, 1, 1], [1.0, 1, 0, 1]


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (
            32,
            {},
            r"mask_ratio=0\.6 leaves none of the 1x1 patches .*32x32 pixels.*larger images or a smaller patch_size",
        ),
        (64, {"mask_ratio": 0.8}, r"none of the 2x2 patches .*64x64.*or a mask_ratio of at most 0\.75"),
        (224, {"mask_ratio": 0.99}, r"none of the 7x7 .*at most 0\.979"),  # 1 - 1/49 itself keeps none
        (64, {"mask_ratio": 1.0}, "mask_ratio=1 leaves none"),
        (64, {"mask": torch.tensor([ONE, ALL])}, "removes all 4 patches of sample 1"),
        (64, {"mask": torch.tensor([ALL, ALL])}, "removes all 4 patches of sample 0"),
        (64, {"mask": torch.tensor([ALL, ALL]).view(2, 2, 2).bool()}, "removes all 4 patches of sample 0"),
        (64, {"mask": torch.tensor([ALL, ALL]), "kept": 0}, "kept must be the visible patches .*1 to 4 here, got 0"),
        (64, {"mask": torch.tensor([ONE, ONE]), "kept": 5}, "1 to 4 here, got 5"),
        (64, {"mask": torch.tensor([ONE, ALL]), "kept": 1}, "kept=1, but the mask leaves 0 patches of sample 1"),
        (64, {"mask": torch.tensor([ONE, ONE]), "kept": 2}, "kept=2, but the mask leaves 1 patches of sample 0"),
    ],
)
def test_every_sample_needs_a_visible_patch(size, options, message):
    for full_pred in (True, False):
        with pytest.raises(cf.UnsupportedInputError, match=message):
            small()(torch.zeros(2, 3, size, size), full_pred=full_pred, **options)
    with pytest.raises(cf.UnsupportedInputError, match=message):
        small().forward_encoder(torch.zeros(2, 3, size, size), **options)


@pytest.mark.parametrize(("size", "ratio"), [(64, 0.75), (96, 0.888), (224, 0.979)])
def test_the_ratio_that_the_error_names_works(size, ratio):
    mask = small().gen_random_mask(torch.zeros(2, 3, size, size), ratio)
    assert (mask == 0).sum(1).tolist() == [1, 1]


def test_nothing_is_read_back_where_the_kept_patches_are_known():
    """As in a CUDA graph's capture: a fake tensor raises where its values are asked for."""
    mae = small()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        loss, _, _ = mae(torch.zeros(2, 3, 64, 64), mask=torch.zeros(2, 4), kept=2)
        drawn, _, _ = mae(torch.zeros(2, 3, 64, 64))
    assert loss.shape == drawn.shape == ()


def test_a_given_mask_compiles_in_one_graph():
    mae = small()
    imgs, mask = torch.randn(2, 3, 64, 64), torch.tensor([ONE, ONE])
    compiled = torch.compile(mae, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(imgs, mask=mask, kept=1)[0], mae(imgs, mask=mask)[0], rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


BINARY = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]])
OTHER_VALUES = {
    "255": (BINARY * 255).to(torch.uint8),
    "2": (BINARY * 2).long(),
    "-1": -BINARY,
    "0.5": BINARY / 2,
    "nan": BINARY.masked_fill(BINARY == 1, float("nan")),
}


@pytest.mark.parametrize("name", OTHER_VALUES)
@pytest.mark.parametrize("full_pred", [True, False])
def test_masks_of_other_values_than_0_and_1(name, full_pred, monkeypatch):
    mae, imgs, mask = small(), torch.randn(2, 3, 64, 64), OTHER_VALUES[name]
    message = rf"a mask holds 0 for visible and 1 for removed patches, got {name};"
    for options in ({}, {"kept": 2}):
        with pytest.raises(cf.UnsupportedInputError, match=message):
            mae(imgs, mask=mask, full_pred=full_pred, **options)
    pred = torch.randn(2, 3072, 2, 2)
    with pytest.raises(cf.UnsupportedInputError, match=message):
        mae.forward_loss(imgs, pred, mask)
    with pytest.raises(cf.UnsupportedInputError, match=message):
        mae.forward_decoder(torch.zeros(2, 40, 2, 2), mask)
    # where nothing may be read, as with `kept` on a GPU, what is not 0 is removed everywhere
    monkeypatch.setattr("convnextv2_fast.models._masks._readable", lambda mask: False)
    want, got = (mae(imgs, mask=m, kept=2, full_pred=full_pred) for m in (BINARY, mask))
    assert torch.equal(want[0], got[0]) and torch.equal(want[1], got[1]) and torch.equal(want[2], got[2].float())
    assert torch.equal(mae.forward_loss(imgs, pred, mask), mae.forward_loss(imgs, pred, BINARY))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_masks_of_any_dtype(dtype):
    mae, imgs = small(), torch.randn(2, 3, 64, 64)
    want, got = (mae(imgs, mask=m) for m in (BINARY, BINARY.to(dtype)))
    assert torch.equal(want[0], got[0]) and got[2].dtype == dtype
