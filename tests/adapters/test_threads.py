"""`accelerate` and `restore` while another thread runs the model."""

import threading

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.adapters import _swap
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters.judge import close
from tests.adapters.test_timm import V2, small, timm


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def timm_block():
    block = randomise(timm.models.convnext.ConvNeXtBlock(8, use_grn=True, ls_init_value=None), 0)
    return block, torch.randn(2, 8, 8, 8), lambda: setattr(block, "mlp", Doubled())


def stem():
    model = small(**V2)
    return model.stem, torch.randn(2, 3, 8, 8), lambda: model.stem[0].register_forward_hook(lambda *_: None)


def transformers_stage():
    library = peers.transformers()
    from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2Stage

    stage = randomise(ConvNextV2Stage(library.ConvNextV2Config(), 8, 16), 0)
    hook = stage.downsampling_layer[0].register_forward_hook
    return stage, torch.randn(2, 8, 8, 8), lambda: hook(lambda *_: None)


@pytest.mark.parametrize("build", [timm_block, stem, transformers_stage])
def test_a_call_that_has_begun_ends_though_the_model_is_restored(build):
    """The module runs its own code, which it has to find although its class is the original one again."""
    module, x, change = build()
    module.eval()
    cf.accelerate(module)
    change()
    begun = module.forward  # as a thread holds it that was stopped here
    cf.restore(module)
    assert torch.equal(begun(x), module(x))


def test_a_model_is_swapped_while_it_runs():
    model, x = small(**V2).eval(), torch.randn(1, 3, 64, 64)
    classes = [type(m) for m in model.modules()]
    results, errors, stop = [], [], threading.Event()

    def infer():
        try:
            while not stop.is_set():
                with torch.no_grad():
                    results.append(model(x))
        except Exception as error:
            errors.append(error)

    with torch.no_grad():
        want = model(x)
    threads = [threading.Thread(target=infer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        assert len(cf.accelerate(model).replaced) == 9
        assert cf.restore(model) == 9
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and results
    for y in results:
        close(y, want, 2e-5, "output")
    assert [type(m) for m in model.modules()] == classes
    assert not any("accelerated" in name for m in model.modules() for name in vars(m))


def test_threads_make_one_class():
    cls, start, made = type("Some", (nn.Identity,), {}), threading.Barrier(8), []

    def make():
        start.wait()
        made.append(_swap.accelerated(cls, nn.Identity.forward))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
