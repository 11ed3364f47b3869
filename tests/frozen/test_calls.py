"""The images that a frozen model takes, and the errors of those that it does not."""

import concurrent.futures

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.frozen import op
from tests.frozen.subjects import build, error, flat, frozen, images
from tests.native.isas import needs_library
from tests.reliability import growth

pytestmark = [pytest.mark.cpu_kernel, needs_library]
SHAPES = [(1, 32, 32), (2, 33, 63), (1, 300, 40), (0, 64, 64), (5, 64, 64)]
STRIDES = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "every other": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["ours", "ours-maps", "timm-v2"])
@torch.no_grad()
def test_shapes(family, shape):
    model, x = build(family), images(*shape)
    want = flat(model(x))
    got = flat(cf.freeze(model)(x))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and (a.numel() == 0 or error(a, b) < 5e-6)


@pytest.mark.parametrize("how", STRIDES)
def test_strides(how):
    model, x = frozen(), STRIDES[how](images(2))
    assert not x.is_contiguous() and torch.equal(model(x), model(x.contiguous()))


def test_a_large_image():
    """Its maps are larger than what a thread keeps: they are allocated for the call."""
    model = cf.freeze(build("ours-maps"))
    x = torch.randn(1, 3, 1, 2048).expand(1, 3, 2048, 2048)
    got, want = flat(model(x)), flat(cf.unfreeze(model)(x))
    assert error(got[0], want[0]) < 5e-6


@pytest.mark.skipif(growth.mallinfo2 is None, reason="reads malloc's books of glibc 2.33 or newer")
@torch.inference_mode()
def test_the_memory_for_a_large_image_is_returned():
    """A thread keeps buffers of up to 32 MiB each. This image needs 234 MB of them, its maps taken together."""
    model, x = frozen(), images(1, 64, 64)

    def held(image):
        model(image)
        return growth.given_out()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a thread that has kept nothing yet
        before = pool.submit(held, x).result()
        assert pool.submit(held, x[..., :1, :1].expand(1, 3, 4096, 4096)).result() - before < 64 << 20


REFUSED = {
    "rank": (lambda x: x[0], r"images \[N, 3, H, W\]"),
    "channels": (lambda x: x[:, :1], r"images \[N, 3, H, W\]"),
    "small": (lambda x: x[:, :, :31], "at least 32"),
    "bytes": (lambda x: x.byte(), r"\.float\(\) / 255"),
    "dtype": (lambda x: x.half(), "float32, the model's dtype"),
    "device": (lambda x: x.to("meta"), "runs on the CPU"),
    "gradient": (lambda x: x.requires_grad_(), "detach the image"),
    "array": (lambda x: x.numpy(), "got ndarray"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("family", ["ours", "transformers-v2-model"])
def test_images_that_do_not_fit(family, what):
    model = frozen(family)
    act, words = REFUSED[what]
    with pytest.raises(cf.UnsupportedInputError, match=f"frozen: .*{words}"):
        model(act(images()))


def test_what_would_be_ignored():
    model, x = frozen(), images()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(cf.UnsupportedInputError, match="outside autocast"):
        model(x)
    with cf.use_backend("torch"), pytest.raises(cf.UnsupportedInputError, match="asked to run on 'torch'"):
        model(x)
    with pytest.raises(cf.UnsupportedInputError, match=r"torch\.func transform"):
        torch.vmap(model)(x[None])
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(cf.UnsupportedInputError, match="hooks on all modules"):
            model(x)
    finally:
        handle.remove()
    with torch.no_grad():
        assert model(x.requires_grad_()).shape == (3, 5)


def spoilt(program, at, number, kind=torch.int32):
    other = program.clone()
    other.view(kind)[at] = number
    return other


def moved(program, at, floats):
    return spoilt(program, at, program.view(torch.int64)[at] + floats, torch.int64)


def huge(_):
    """A program of one convolution of 12 million channels and a window of 256 x 256."""
    weights = [torch.zeros(8, 3, 4, 4), *[torch.zeros(0)] * 3]
    program = op.pack([0, 0], [1e-6, 1e-6], weights, 0)
    for at, number in ((9, 256), (10, 12_000_000), (11, 12_000_000)):
        program = spoilt(program, at, number, torch.int64)
    return program


PROGRAMS = {
    "nothing": (lambda p: p[:0], "holds no program"),
    "zeros": (torch.zeros_like, "holds no program"),
    "another version": (lambda p: spoilt(p, 1, 7), "another version"),
    "an unknown instruction set": (lambda p: spoilt(p, 2, 99), "holds no program"),
    "cut off": (lambda p: p[:-16], "cut off"),
    "too many steps": (lambda p: spoilt(p, 2, 1 << 40, torch.int64), "cut off"),
    "an unknown step": (lambda p: spoilt(p, 16, 40), "broken"),
    "other channels": (lambda p: spoilt(p, 11, 9, torch.int64), "broken"),
    "weights elsewhere": (lambda p: spoilt(p, 13, 1 << 60, torch.int64), "broken"),
    "weights before": (lambda p: spoilt(p, 13, -16, torch.int64), "broken"),
    "weights not at the start of a line": (lambda p: moved(p, 13, 4), "broken"),
    "weights over those of another step": (lambda p: moved(p, 21, -16), "broken"),
    "vectors over those of another step": (lambda p: moved(p, 14, 16), "broken"),
    "sizes whose product overflows": (huge, "broken"),
    "more than its steps": (lambda p: spoilt(torch.cat([p, p[:16]]), 3, p.numel() + 16, torch.int64), "broken"),
    "vectors elsewhere": (lambda p: spoilt(p, 14, p.numel() - 3, torch.int64), "broken"),
    "bytes": (lambda p: p.view(torch.uint8), "holds no program"),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_programs_that_are_none(what):
    model = frozen()
    spoil, words = PROGRAMS[what]
    model.frozen_program = spoil(model.frozen_program)
    with pytest.raises(ValueError, match=words):
        model(images())


@pytest.mark.parametrize(
    ("wanted", "start"),
    [
        *(([], 0), ([1, 1, 8], 0), ([99, 1, 8, 4], 0), ([0, 0, 8, 4], 0), ([0, 1, 9, 4], 0), ([0, 1, 8, 0], 0)),
        *(([0, 1, 8, 4, 0, 1, 8, 4], 0), ([1, 1, 8, 1], 1), ([0, 1, 8, 4], 1), ([10, 0, 5, 0], 11), ([0, 1, 8, 4], -1)),
    ],
)
def test_outputs_that_a_program_does_not_have(wanted, start):
    model = frozen()
    with pytest.raises(ValueError, match="model_cpu_fwd"):
        op.forward(images(), model.frozen_program, wanted, start)


def test_a_later_start_wants_channels_last():
    model, x = frozen(), torch.randn(2, 8, 16, 24)
    with pytest.raises(ValueError, match="strides of channels_last"):
        op.forward(x, model.frozen_program, [1, 1, 8, 1], 1)
    (got,) = op.forward(x.contiguous(memory_format=torch.channels_last), model.frozen_program, [1, 1, 8, 1], 1)
    cf.unfreeze(model)
    assert error(got.permute(0, 3, 1, 2), model.stages[0](x)) < 5e-6


PLANS = {
    "no step": ([], [torch.zeros(4)]),
    "an unknown step": ([9, 0], [torch.zeros(4)]),
    "no kernel": ([0, 0], [torch.zeros(2, 2)] * 4),
    "another bias": ([5, 0], [torch.zeros(3, 2), torch.zeros(9)]),
    "too many weights": ([2, 2], [torch.zeros(4)] * 3),
    "too few weights": ([1, 0], [torch.zeros(4)] * 3),
    "float64": ([2, 2], [torch.zeros(4, dtype=torch.float64)] * 2),
    "a vector before a map": ([5, 0], [torch.zeros(3, 2), torch.zeros(0)]),
}


@pytest.mark.parametrize("what", PLANS)
def test_plans_that_are_none(what):
    plan, weights = PLANS[what]
    with pytest.raises(ValueError, match="model_cpu_pack"):
        op.pack(plan, [1e-6] * len(plan), weights, 0)
