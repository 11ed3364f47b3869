"""Inference sees every change of a weight, whoever makes it and by whatever means: after each, the answer is, bit for
bit, that of a copy of the model which has never run before."""

import copy
import ctypes
import gc
import io
import os
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

import convnextv2_fast as cf
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import randomise
from tests import peers
from tests.native.isas import needs_library

pytestmark = needs_library
SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def dense():
    return cf.ConvNeXtV2(num_classes=5, **SMALL)


def encoder():
    return cf.fcmae.FCMAE(decoder_embed_dim=16, img_size=64, **SMALL)


def timm():
    model = peers.timm().models.convnext.ConvNeXt(num_classes=5, use_grn=True, ls_init_value=None, **SMALL)
    cf.accelerate(model)
    return model


MODELS = {"dense": dense, "encoder": encoder, "timm": timm}
MASK = torch.tensor([[0.0, 1, 0, 1], [1.0, 0, 0, 1]])


@torch.no_grad()
def answer(model):
    return model.forward_encoder(X, mask=MASK)[0] if hasattr(model, "forward_encoder") else model(X)


def each(change):
    """A change of the widest matrices; `change(p, row)`, row the last of p, through `.data`."""

    def run(model):
        for p in model.parameters():
            if p.ndim == 2 and len(p) >= 64:
                change(p, p.data[-1])

    return run


def no_grad(change):
    return each(torch.no_grad()(change))


def swap(p, row):
    torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 1.1))


def exchange(p, row):
    row[[0, -1]] = row[[-1, 0]]


def storage_byte(p, row):
    storage = p.untyped_storage()
    storage[len(storage) - 1] = storage[len(storage) - 1] ^ 128  # the sign of the last value


def requires_grad(p, row):
    p.requires_grad_(False)
    row.mul_(1.1)
    p.requires_grad_(True)


def new_parameters(model):
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() * 1.1))


def pruned(model):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            prune.l1_unstructured(module, "weight", 0.2)
            prune.remove(module, "weight")


def optimizer_step(model):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.AdamW(model.parameters(), lr=0.01).step()


def moving_average(model):
    parameters = list(model.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(parameters, [p + 1 for p in parameters], 0.1)


def one_vector(model):
    """All parameters become views of one vector, which is written to after they have been used."""
    vector = parameters_to_vector(model.parameters()).detach()
    vector_to_parameters(vector, model.parameters())
    answer(model)
    at = 0
    for p in model.parameters():
        at += p.numel()
        if p.ndim == 2:
            vector[at - 1] += 0.5


def another_process(model):
    model.share_memory()
    answer(model)
    arrays = [p.detach().numpy() for p in model.parameters() if p.ndim == 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child only writes
        pid = os.fork()
    if pid == 0:
        for array in arrays:
            array[-1:] *= np.float32(1.1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def loaded(**options):
    return lambda m: m.load_state_dict(
        {k: v * 1.1 if v.is_floating_point() else v for k, v in m.state_dict().items()}, **options
    )


CHANGES = {
    ".data[...] =": each(lambda p, row: p.data.__setitem__((-1, ...), row * 1.1)),
    ".data.clamp_": each(lambda p, row: row.clamp_(max=row.max().item() - 1e-3)),
    ".data.neg_": each(lambda p, row: row.neg_()),
    "one element": each(lambda p, row: p.data.view(-1)[-1:].add_(0.5)),
    "one sign": each(lambda p, row: p.data.view(-1)[-1:].neg_()),
    "two elements exchanged": each(exchange),
    "rows permuted": each(lambda p, row: p.data.__setitem__([-1, -4], p.data[[-4, -1]])),
    "NumPy": each(lambda p, row: row.numpy().__imul__(np.float32(1.1))),
    "DLPack": each(lambda p, row: torch.from_dlpack(p.detach())[-1].mul_(1.1)),
    "a pointer": each(lambda p, row: ctypes.memset(p.data_ptr() + 4 * p.numel() - 4, 0, 4)),
    "a byte of the storage": each(storage_byte),
    "out=": each(lambda p, row: torch.mul(row, 1.1, out=row)),
    "requires_grad_": each(requires_grad),
    ".data =": each(lambda p, row: setattr(p, "data", p.data * 1.1)),
    "mul_": no_grad(lambda p, row: p.mul_(1.1)),
    "copy_": no_grad(lambda p, row: p.copy_(p * 1.1)),
    "set_": no_grad(lambda p, row: p.set_((p * 1.1).detach())),
    "swap_tensors": each(swap),
    "new parameters": new_parameters,
    "pruning": pruned,
    "an optimizer's step": optimizer_step,
    "a moving average": moving_average,
    "vector_to_parameters": one_vector,
    "load_state_dict": loaded(),
    "load_state_dict(assign=True)": loaded(assign=True),
    "to another dtype and back": lambda m: m.bfloat16().float(),
    "another process": another_process,
}


def made(name):
    return randomise(MODELS[name](), 0).eval()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MODELS)
def test_every_change_is_seen(name, change):
    if change == "another process" and not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    model = made(name)
    before = answer(model)
    assert torch.equal(answer(model), before)
    CHANGES[change](model)
    got = answer(model)
    assert torch.equal(got, answer(copy.deepcopy(model)))
    assert not torch.equal(got, before)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_looked_at(name):
    """One element of each parameter in turn: the last, of a filter the middle, which no plane is too small for."""
    model = made(name)
    before = answer(model)
    for key, p in model.named_parameters():
        if not key.startswith(("decoder", "proj", "pred", "mask_token")):
            middle = (24, -1) if p.shape[0] == 49 else (-1, -1)
            p.data[(*middle[: p.ndim], *(n // 2 for n in p.shape[2:]))] += 0.5
            got = answer(model)
            assert not torch.equal(got, before), key
            before = got
    assert torch.equal(before, answer(copy.deepcopy(model)))


@pytest.mark.parametrize("name", MODELS)
def test_models_made_in_inference_mode_keep_copies(name):
    packed.clear()
    with torch.inference_mode():
        model = made(name)
        before = answer(model)
        held = packed.held_bytes()
        assert held > 0
        assert torch.equal(answer(model), before) and packed.held_bytes() == held
        next(p for key, p in model.named_parameters() if "stages" in key and p.ndim == 2).view(-1)[-1] += 0.5
        got = answer(model)
        assert torch.equal(got, answer(copy.deepcopy(model))) and not torch.equal(got, before)


@pytest.mark.parametrize("name", MODELS)
def test_copies_go_with_the_model_and_nowhere_else(name):
    def saved(m):
        buffer = io.BytesIO()
        torch.save(m, buffer)
        return buffer.tell()

    gc.collect()
    start = packed.held_bytes()
    model = made(name)
    size = saved(model)
    answer(model)
    one = packed.held_bytes()
    assert one > start
    assert saved(model) == size
    other = copy.deepcopy(model)
    assert packed.held_bytes() == one
    answer(other)
    assert packed.held_bytes() - one == one - start
    for p in model.parameters():  # the memory goes, and with it the copies
        p.data = p.data.clone()
    assert packed.held_bytes() == one
    del model, p
    del other
    gc.collect()
    assert packed.held_bytes() == start


def test_swapped_modules_can_be_converted():
    """Nothing refers to a parameter weakly, which would forbid to swap it."""
    model = made("dense")
    answer(model)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()
        model.load_state_dict(model.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert torch.equal(answer(model), answer(copy.deepcopy(model)))


def test_threads_that_find_a_stale_copy_at_once():
    model, count, rounds = made("dense"), 8, 5
    start, done = threading.Barrier(count + 1), threading.Barrier(count + 1)
    found = [None] * count

    def work(i):
        for _ in range(rounds):
            start.wait()
            found[i] = answer(model)
            done.wait()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    wrong = 0
    for r in range(rounds):
        for p in model.parameters():
            p.data.mul_(1.1 if r % 2 else 0.9)
        start.wait()
        done.wait()
        want = answer(copy.deepcopy(model))
        wrong += sum(not torch.equal(y, want) for y in found)
    for thread in threads:
        thread.join()
    assert wrong == 0
