"""On a CUDA device: all ops and both models against float64 on the CPU, no hidden synchronisation, no leak."""

import contextlib

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED
from convnextv2_fast.ops._shared import cuda
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.testing import KERNEL_OPS, kinds, make
from tools.kernels.variants import persistent

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
BACKENDS = ["cuda", "triton"]
SMALL = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 40]}


def compare(exact, got, dtype, backend, **extra):
    """The op on the device, forward and every gradient, against float64 on the CPU."""
    want, y = exact.public(backend="torch"), got.public(backend=backend, **extra)
    grad = torch.randn(want.shape, dtype=torch.float64)
    want.backward(grad)
    y.backward(grad.to(y))
    pairs = {"out": (y, want)} | {k: (got.tensors[k].grad, t.grad) for k, t in exact.tensors.items()}
    for name, (ours, right) in pairs.items():
        assert ours.is_cuda
        error = (ours.detach().cpu().double() - right.detach()).norm() / right.detach().norm().clamp_min(1e-30)
        assert error <= 16 * torch.finfo(dtype).eps, f"{name}: {error:.2e}"


def skip_unless_it_runs(problem, dtype, backend):
    reasons = dispatch.explain_spec(problem.to(dtype, device="cuda").spec()).reasons.get(backend)
    if reasons:
        pytest.skip("; ".join(reasons))


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("op", "kind"), [(op, kind) for op in KERNEL_OPS for kind in kinds(op)])
def test_ops(op, kind, dtype, backend):
    problem = make(op, 2, 6, 5, 24, kind)
    skip_unless_it_runs(problem, dtype, backend)
    compare(problem.to(torch.float64), problem.to(dtype, device="cuda"), dtype, backend)


@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "tma"])
@pytest.mark.parametrize("c", [40, 96, 192, 352, 768])
@pytest.mark.parametrize("strategy", ["materialize", "recompute", "chunked"])
def test_mlp_grn_strategies(strategy, c, tma):
    """Triton's three strategies in bfloat16 at the models' widths and an odd plane."""
    chip, bf16 = chips.of(torch.device("cuda")), torch.bfloat16
    if tma and not chip.tma:
        pytest.skip(f"{chip.name} has no TMA")
    if strategy == "recompute" and c > WIDEST_FUSED:
        pytest.skip("recompute ends at C = 384")
    problem = make("mlp_grn", 3, 7, 7, c)
    with persistent(chip, c, bf16) if tma else contextlib.nullcontext():
        compare(problem.to(torch.float64), problem.to(bf16, device="cuda"), bf16, "triton", strategy=strategy)


def test_gelu_as_ptx():
    """Triton's, which its interpreter cannot run: as without PTX for every bfloat16, infinities and NaN among them."""
    pytest.importorskip("triton")
    from tests.triton.interpreted.test_activation import evaluate

    if not chips.of(torch.device("cuda")).family.startswith("sm_"):
        pytest.skip("not an NVIDIA GPU")
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).cuda()
    for got, want in zip(evaluate(x, True, True), evaluate(x, True, False), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-38, equal_nan=True)


@pytest.mark.parametrize(
    ("n", "size", "c"), [(2, 56, 96), (3, 28, 160), (2, 14, 384), (2, 7, 768), (2, 1, 768), (1, 61, 41), (1, 64, 96)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_depthwise_at_the_models_sizes(backend, n, size, c, dtype):
    """Strips and tiles of whole planes."""
    problem = make("dwconv_layer_norm", n, size, size, c)
    skip_unless_it_runs(problem, dtype, backend)
    compare(problem.to(torch.float64), problem.to(dtype, device="cuda"), dtype, backend)


@pytest.mark.parametrize(("n", "size", "c"), [(2, 56, 96), (3, 28, 160), (2, 14, 384), (5, 7, 768), (1, 61, 40)])
@pytest.mark.parametrize("op", ["dwconv_layer_norm", "sparse_dwconv"])
def test_depthwise_on_the_tensor_cores(op, n, size, c, monkeypatch):
    monkeypatch.setattr(cuda, "DWCONV", "mma")
    problem = make(op, n, size, size, c, "rows")
    skip_unless_it_runs(problem, torch.bfloat16, "cuda")
    compare(problem.to(torch.float64), problem.to(torch.bfloat16, device="cuda"), torch.bfloat16, "cuda")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", KERNEL_OPS)
def test_the_same_bits_again(op, backend):
    problem = make(op, 3, 14, 14, 96)
    skip_unless_it_runs(problem, torch.bfloat16, backend)
    results = []
    for _ in range(3):
        p = problem.to(torch.bfloat16, device="cuda")
        y = p.public(backend=backend)
        y.backward(torch.ones_like(y))
        results.append([y, *(t.grad for t in p.tensors.values())])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))


def small_mae():
    return cf.fcmae.FCMAE(**SMALL, decoder_embed_dim=16, init="std02")


def test_models():
    model, mae = cf.ConvNeXtV2(**SMALL).eval(), small_mae()
    x = torch.randn(2, 3, 64, 96)
    mask = torch.tensor([[1.0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]])
    want = cf.reference.convnextv2({k: v.double() for k, v in model.state_dict().items()}, x.double())
    got = model.cuda()(x.cuda()).cpu().double()
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()
    loss = cf.reference.fcmae({k: v.double() for k, v in mae.state_dict().items()}, x.double(), mask.double())[0]
    ours = mae.cuda()(x.cuda(), mask=mask.cuda())[0].cpu().double()
    assert abs(ours - loss) <= 1e-4 * loss


@pytest.fixture(params=["auto", *BACKENDS])
def on_backend(request):
    """Every op that has this backend runs on it."""
    missing = dispatch.backends().get(request.param)
    if missing:
        pytest.skip("; ".join(missing))
    with cf.use_backend(request.param):
        yield


def test_a_pretraining_step_never_waits_for_the_device(on_backend):
    mae = small_mae().cuda()
    x = torch.randn(2, 3, 64, 64, device="cuda")
    mae(x)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mae(x)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_returns_to_its_start_after_50_steps(on_backend):
    mae = small_mae().cuda()
    x = torch.randn(2, 3, 64, 64, device="cuda")

    def step():
        mae(x)[0].backward()
        mae.zero_grad(set_to_none=True)

    step()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        step()
    assert torch.cuda.memory_allocated() == before


def tiny(dtype):
    """A model of tiny's widths, one block a stage."""
    return cf.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[96, 192, 384, 768]).cuda().to(dtype).eval()


def test_a_captured_model_replays(on_backend):
    """Over graphs whose inputs differ, after memory was freed and taken again."""
    model, bf16 = tiny(torch.bfloat16), torch.bfloat16
    inputs = [torch.randn(8, 3, 96, 64, device="cuda", dtype=bf16) for _ in range(2)]
    graphs, outputs = [], []
    with torch.no_grad():
        want = [model(x) for x in inputs]
        for x in inputs:
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1]):
                outputs.append(model(x))
        torch.cuda.empty_cache()
        poison = torch.full((64 << 20,), float("nan"), device="cuda")
        for graph, y, right in zip(graphs, outputs, want, strict=True):
            y.zero_()
            graph.replay()
            assert torch.equal(y, right)
        del poison


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_model(backend):
    """Inductor's code around our operators, in inference and in training."""
    if dispatch.backends()[backend]:
        pytest.skip("; ".join(dispatch.backends()[backend]))
    model, x = tiny(torch.bfloat16), torch.randn(8, 3, 96, 64, device="cuda", dtype=torch.bfloat16)
    with cf.use_backend(backend):
        compiled = torch.compile(model, dynamic=False, fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=5e-2, atol=5e-2)
        want, got = [
            torch.autograd.grad(f(x).float().square().sum(), list(model.parameters())) for f in (model, compiled)
        ]
    for ours, right in zip(got, want, strict=True):
        assert (ours - right).float().norm() <= 5e-2 * right.float().norm() + 1e-6
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_block_replays(backend):
    """A whole block in a CUDA graph: no allocation outside the pool, no wait, the same values."""
    if dispatch.backends()[backend]:
        pytest.skip("; ".join(dispatch.backends()[backend]))
    block = cf.models.convnextv2.Block(40).cuda().to(torch.bfloat16).eval()
    x = torch.randn(2, 40, 14, 14, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), cf.use_backend(backend):
        want = block(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = block(x)
        y.zero_()
        graph.replay()
    assert torch.equal(y, want)


def steps(kind, captured, count=5):
    """Losses of SGD steps of a classifier, or of FCMAE with one mask a step, run one by one or as a replayed graph."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 64, 64, device="cuda")
    if kind == "fcmae":
        model = cf.fcmae.FCMAE(decoder_embed_dim=32, init="std02", grn_scope="sample", **SMALL).cuda()
        masks = torch.stack([model.gen_random_mask(x, 0.5) for _ in range(count)])
        kept, mask = int((masks[0, 0] == 0).sum()), masks[0].clone()

        def loss():
            return model(x, mask=mask, kept=kept, full_pred=False)[0]

    else:
        model, labels = cf.ConvNeXtV2(num_classes=5, **SMALL).cuda().train(), torch.arange(4, device="cuda")
        masks = mask = torch.zeros(count, device="cuda")

        def loss():
            return torch.nn.functional.cross_entropy(model(x), labels)

    optimizer = torch.optim.SGD(model.parameters(), 1e-2)

    def step():
        optimizer.zero_grad(set_to_none=False)
        value = loss()
        value.backward()
        optimizer.step()
        return value

    before = {k: v.clone() for k, v in model.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are compiled and gradients allocated before capture
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    model.load_state_dict(before)
    graph = torch.cuda.CUDAGraph()
    if captured:
        with torch.cuda.graph(graph):
            value = step()
        model.load_state_dict(before)
    losses = []
    for i in range(count):
        if kind == "fcmae":
            mask.copy_(masks[i])
        if captured:
            graph.replay()
        else:
            value = step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("kind", ["classifier", "fcmae"])
def test_a_captured_training_step_replays(on_backend, kind):
    """Forward, backward and optimizer in one graph, with another mask in every replay."""
    assert steps(kind, True) == steps(kind, False)
