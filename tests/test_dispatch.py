"""Argument > context > environment > automatic, and the sentences that go with each."""

import asyncio
import logging
import threading

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.spec import Implementation, Spec, always


@pytest.fixture
def toy(monkeypatch):
    """An op with three backends: `cuda` never runs here, `cpu` runs float32, `torch` everything."""
    monkeypatch.setattr(dispatch, "_registry", dict(dispatch._registry))
    dispatch.register(
        "toy",
        [
            Implementation("cuda", "on cuda", lambda s: ["needs a CUDA tensor"] if s.device != "cuda" else []),
            Implementation("cpu", "on cpu", lambda s: [] if s.dtype == torch.float32 else [f"no {s.dtype}"]),
            Implementation("torch", "reference", always),
        ],
    )
    return Spec.of("toy", torch.zeros(2, 3), torch.zeros(3))


def wide(spec: Spec) -> Spec:
    return spec._replace(dtype=torch.float64)


def test_automatic_choice_takes_the_first_that_can(toy, caplog):
    with caplog.at_level(logging.DEBUG, logger="convnextv2_fast"):
        assert dispatch.choose(toy).backend == "cpu"
    assert "not cuda: needs a CUDA tensor" in caplog.text
    assert dispatch.choose(wide(toy)).backend == "torch"


def test_precedence(toy, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torch")
    assert dispatch.choose(toy).backend == "torch"
    with cf.use_backend("cpu"):
        assert dispatch.choose(toy).backend == "cpu"
        assert dispatch.choose(toy, "torch").backend == "torch"
        with cf.use_backend("torch", op="toy"), cf.use_backend("auto", op="grn"):
            assert dispatch.choose(toy).backend == "torch"
        assert dispatch.choose(toy).backend == "cpu"
    assert dispatch.choose(toy).backend == "torch"
    assert dispatch.choose(toy, "auto").backend == "cpu"


def test_an_explicit_choice_that_cannot_run_lists_reasons_and_what_works(toy):
    with pytest.raises(cf.UnsupportedInputError) as e:
        dispatch.choose(wide(toy), "cpu")
    text = str(e.value)
    assert "toy: backend 'cpu' cannot run float64" in text and "no torch.float64" in text and "These can: torch" in text
    with cf.use_backend("cuda"), pytest.raises(cf.UnsupportedInputError, match="needs a CUDA tensor"):
        dispatch.choose(toy)
    with pytest.raises(cf.UnsupportedInputError, match="toy has no triton implementation yet"):
        dispatch.choose(toy, "triton")


def test_an_unproven_kernel_runs_only_when_asked_for(toy):
    dispatch.register(
        "toy",
        [
            Implementation("triton", "unproven", always, automatic=False),
            Implementation("torch", "reference", always),
        ],
    )
    assert dispatch.choose(toy).backend == "torch"
    assert dispatch.choose(toy, "triton").run == "unproven"
    with cf.use_backend("triton"):
        assert dispatch.choose(toy).run == "unproven"


def test_a_context_leaves_ops_without_that_backend_alone(toy):
    with cf.use_backend("triton"):
        assert dispatch.choose(toy).backend == "cpu"


def test_the_context_ends_with_an_exception(toy):
    with pytest.raises(RuntimeError), cf.use_backend("torch"):
        raise RuntimeError
    assert dispatch.choose(toy).backend == "cpu"


@pytest.mark.parametrize("where", ["argument", "context", "environment"])
def test_unknown_backend(toy, where, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown backend 'gpu'.*choose one of auto, cuda, triton, cpu, torch"):
        if where == "argument":
            cf.ops.grn(torch.zeros(1, 2, 2, 3), torch.zeros(3), torch.zeros(3), backend="gpu")
        elif where == "context":
            with cf.use_backend("gpu"):
                pass
        else:
            monkeypatch.setenv(dispatch.ENVIRONMENT, "gpu")
            cf.ops.grn(torch.zeros(1, 2, 2, 3), torch.zeros(3), torch.zeros(3))


def test_unknown_op():
    with pytest.raises(ValueError, match=r"unknown op 'conv': the ops are .*dwconv_layer_norm"):
        cf.explain("conv", torch.zeros(2, 3))
    with pytest.raises(ValueError, match="unknown op"), cf.use_backend("cpu", op="conv"):
        pass


def test_the_last_implementation_is_the_reference():
    with pytest.raises(ValueError, match="last implementation must be 'torch'"):
        dispatch.register("other", [Implementation("cpu", None, always)])


def test_explain(toy):
    x, w = torch.zeros(2, 3), torch.zeros(3)
    text = str(cf.explain("toy", x, w))
    assert "runs on: cpu (automatic choice)" in text
    assert "not cuda: needs a CUDA tensor" in text and "not torch: it can, if asked for" in text
    refused = cf.explain("toy", x.double(), w.double(), backend="cpu")
    assert refused.chosen is None and "nothing, an error is raised ('cpu' asked for by argument)" in str(refused)
    assert cf.explain("toy", x, w, backend="triton").reasons["triton"] == ["toy has no triton implementation yet"]


def test_explain_agrees_with_what_runs():
    x = torch.randn(1, 7, 7, 16)
    weight, bias = torch.randn(16, 1, 7, 7), torch.randn(16)
    chosen = cf.explain("dwconv_layer_norm", x, weight, bias, bias, bias).chosen
    a = cf.ops.dwconv_layer_norm(x, weight, bias, bias, bias)
    assert torch.equal(a, cf.ops.dwconv_layer_norm(x, weight, bias, bias, bias, backend=chosen))


def test_spec():
    x, p = torch.zeros(2, 3, requires_grad=True), torch.zeros(3, dtype=torch.float64)
    spec = Spec.of("toy", x, None, p, torch.zeros(3))
    assert spec.param_dtype is None and spec.needs_grad and spec.channels == 3 and spec.layout == "dense"
    with torch.no_grad():
        assert not Spec.of("toy", x, p).needs_grad


def test_torch_compile_sees_a_change_of_backend(monkeypatch):
    """A compiled function is guarded on the context: it is traced again, not run on the old choice."""
    reference = dispatch.implementations("grn")[-1]
    shifted = Implementation("cpu", lambda call: reference.run(call) + 1, always)
    monkeypatch.setitem(dispatch._registry, "grn", (shifted, reference))
    x, one = torch.randn(1, 4, 4, 8), torch.ones(8)
    f = torch.compile(lambda: cf.ops.grn(x, one, one), backend="eager", fullgraph=True)
    automatic = f()
    with cf.use_backend("torch"):
        chosen = f()
    torch.testing.assert_close(automatic, chosen + 1)
    torch.testing.assert_close(f(), automatic)
    torch._dynamo.reset()


def test_backends():
    found = dispatch.backends()
    assert set(found) == {"torch", "cpu", "cuda", "triton"} and found["torch"] == []
    if not torch.cuda.is_available():
        assert found["cuda"] and found["triton"]


def test_use_backend_belongs_to_its_thread(toy):
    seen = []
    with cf.use_backend("torch"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.choose(toy).backend))
        thread.start()
        thread.join()
        assert dispatch.choose(toy).backend == "torch"
    assert seen == ["cpu"]


def test_use_backend_of_overlapping_threads_leaves_nothing_behind(toy):
    first, second = threading.Event(), threading.Event()
    left = []

    def outer():
        with cf.use_backend("torch"):
            first.set()
            second.wait()
        left.append(dispatch.choose(toy).backend)

    def inner():
        first.wait()
        with cf.use_backend("torch", op="toy"):
            second.set()
            a.join()
        left.append(dispatch.choose(toy).backend)

    a, b = threading.Thread(target=outer), threading.Thread(target=inner)
    for thread in (a, b):
        thread.start()
    for thread in (a, b):
        thread.join()
    assert left == ["cpu", "cpu"] and dispatch.choose(toy).backend == "cpu"


def test_use_backend_of_overlapping_tasks_leaves_nothing_behind(toy):
    """Tasks of asyncio share a thread, and may end in another order than they began."""

    async def task(backend, seconds):
        with cf.use_backend(backend):
            await asyncio.sleep(seconds)

    async def both():
        await asyncio.gather(task("torch", 0.01), task("cpu", 0.05))

    asyncio.run(both())
    assert dispatch.choose(toy).backend == "cpu" and dispatch.requested("toy") == []


def test_torch_compile_guards_on_the_backend_of_the_calling_thread():
    x, p = torch.randn(1, 4, 4, 8), torch.randn(8)
    graphs = []

    def backend(graph, _):
        graphs.append(any("convnextv2_fast" in str(node.target) for node in graph.graph.nodes))
        return graph

    @torch.no_grad()
    def run():
        return cf.ops.grn(x, p, p)

    compiled = torch.compile(run, backend=backend, fullgraph=True)
    compiled()
    with cf.use_backend("torch"):
        compiled()
        compiled()
        thread = threading.Thread(target=compiled)
        thread.start()
        thread.join()
    compiled()
    assert graphs == [True, False]


def test_recomputed_on_the_backend_that_forward_was_asked_for(monkeypatch):
    """Backward may run in a thread of its own."""
    model = cf.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_classes=2).train()
    model.set_grad_checkpointing()
    chosen, choose = [], dispatch.choose

    def noted(spec, backend=None):
        found = choose(spec, backend)
        chosen.append(found.backend)
        return found

    monkeypatch.setattr(dispatch, "choose", noted)
    with cf.use_backend("torch"):
        loss = model(torch.randn(1, 3, 32, 32)).sum()
    for again in (True, False):  # backward may run more than once, each time computing anew
        before = len(chosen)
        loss.backward(retain_graph=again)
        assert len(chosen) > before and set(chosen) == {"torch", "composed"}


def test_checkpointed_gradients_can_be_differentiated():
    model = cf.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_classes=2).train()
    x, found = torch.randn(1, 3, 32, 32, requires_grad=True), []
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        (g,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), x)[0])
    assert found[1].abs().max() > 0
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
