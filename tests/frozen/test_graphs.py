"""A frozen model in torch.compile, torch.export, torch.jit.trace and torch.fx: one operator that none looks into."""

import pytest
import torch
from torch.export import Dim

import convnextv2_fast as cf
from tests.frozen.subjects import ONE_OF_EACH, build, flat, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]
each = pytest.mark.parametrize("family", ONE_OF_EACH)


class First(torch.nn.Module):
    """A model's first result, as a tensor."""

    def __init__(self, family):
        super().__init__()
        self.model = cf.freeze(build(family))

    def forward(self, x):
        y = self.model(x)
        return y if isinstance(y, torch.Tensor) else y[0]


@each
def test_compiled(family):
    model, x = First(family).eval(), images()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (64, 96):
        x = images(2, size, 64)
        assert torch.equal(compiled(x), model(x))


@each
def test_exported(family):
    model = First(family).eval()
    free = {0: Dim("n", min=1, max=64), 2: Dim("h", min=64, max=512), 3: Dim("w", min=64, max=512)}
    with torch.no_grad():
        program = torch.export.export(model, (images(2, 64, 96),), dynamic_shapes=(free,))
        calls = sum("model_cpu_fwd" in str(node.target) for node in program.graph.nodes)
        assert calls == (2 if family.startswith("transformers") else 1)  # their embeddings, and their encoder
        x = images(5, 100, 75)
        assert torch.equal(program.module()(x), model(x))


@each
@pytest.mark.filterwarnings("ignore")
def test_traced(family):
    model, x = First(family).eval(), images()
    with torch.no_grad():
        traced = torch.jit.trace(model, images(2, 64, 64), check_trace=False)
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("family", ["ours", "timm-v2", "timm-list"])
def test_symbolically_traced(family):
    model, x = cf.freeze(build(family)), images()
    graph = torch.fx.symbolic_trace(model)
    assert all(torch.equal(a, b) for a, b in zip(flat(graph(x)), flat(model(x)), strict=True))


GRAPHS = {
    "jit.trace": lambda m, x: torch.jit.trace(m, x, check_trace=False),
    "export": lambda m, x: torch.export.export(m, (x,)).module(),
    "fx": lambda m, x: torch.fx.symbolic_trace(m),
    "export, compiled": lambda m, x: torch.compile(torch.export.export(m, (x,)).module(), backend="aot_eager"),
}


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.filterwarnings("ignore")
def test_a_graph_drops_no_gradient_and_no_autocast(kind):
    model, x = cf.freeze(build("ours")), images(2, 64, 64)
    want = model(x)
    with torch.no_grad():
        graph = GRAPHS[kind](model, x)
    image = x.clone().requires_grad_()
    with pytest.raises(Exception, match=r"the image requires one; detach the image"):
        graph(image)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(Exception, match=r"autocast does not reach"):
        graph(x)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            got = graph(x if context is torch.enable_grad else image)
            assert torch.equal(got, want) and not got.requires_grad


def test_the_shapes_that_it_promises():
    model, x = cf.freeze(build("ours-maps")), images()
    call = model.frozen_record.calls["list"]
    torch.library.opcheck(torch.ops.convnextv2_fast.model_cpu_fwd.default, (x, model.frozen_program, call.wanted))
