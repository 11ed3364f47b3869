"""The serving examples: right answers to the right requests, whatever happens to one of them."""

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


throughput, latency = example("throughput"), example("latency")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomise(cf.convnextv2_atto(num_classes=7), 0).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (11, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def expected(model, pictures):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (throughput.MEAN, throughput.STD))
    with torch.inference_mode():
        return model((pictures / 255 - mean) / std)


@pytest.mark.parametrize("max_batch", [1, 4, 64])
def test_every_request_gets_its_own_answer(model, pictures, max_batch):
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    try:
        with throughput.Batcher(model, SIZE, max_batch, max_wait=0.2) as batcher:
            futures = [batcher.submit(picture) for picture in pictures]
            got = torch.stack([future.result(timeout=60) for future in futures])
    finally:
        hook.remove()
    want = expected(model, pictures)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert sum(sizes) == 11 and max(sizes) == min(max_batch, 11)


def test_many_threads(model, pictures):
    want, found = expected(model, pictures), {}

    def ask(batcher, i):
        found[i] = batcher.submit(pictures[i]).result(timeout=60)

    with throughput.Batcher(model, SIZE, 4) as batcher:
        threads = [threading.Thread(target=ask, args=(batcher, i)) for i in range(len(pictures))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    got = torch.stack([found[i] for i in range(len(pictures))])
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_what_goes_wrong_stays_with_its_batch(pictures):
    class Fragile(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            if len(x) == 2:
                raise ZeroDivisionError("two")
            return self.weight * x.mean((2, 3))

    with throughput.Batcher(Fragile(), SIZE, 2, max_wait=5.0) as batcher:
        pair = [batcher.submit(picture) for picture in pictures[:2]]
        for future in pair:
            with pytest.raises(ZeroDivisionError):
                future.result(timeout=60)
    with throughput.Batcher(Fragile(), SIZE, 2, max_wait=0.0) as batcher:
        assert batcher.submit(pictures[0]).result(timeout=60).shape == (3,)
        with pytest.raises(ValueError, match=r"an image is uint8 \[3, 64, 64\], this is torch.float32 \[3, 64, 64\]"):
            batcher.submit(pictures[0].float())
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(pictures[0])
    batcher.close()


def test_a_request_can_be_withdrawn(pictures):
    """While the model is at work on another one: it never sees what was withdrawn."""
    begun, release, sizes = threading.Event(), threading.Event(), []

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            sizes.append(len(x))
            begun.set()
            assert release.wait(60)
            return self.weight * x.mean((2, 3))

    with throughput.Batcher(Slow(), SIZE, 4, max_wait=0.0) as batcher:
        first = batcher.submit(pictures[0])
        assert begun.wait(60)
        second, third = batcher.submit(pictures[1]), batcher.submit(pictures[2])
        assert third.cancel()
        release.set()
        assert first.result(timeout=60).shape == second.result(timeout=60).shape == (3,)
    assert third.cancelled() and sizes == [1, 1]


def test_one_image(model, pictures):
    image = torch.randn(1, 3, SIZE, SIZE)
    classify = latency.OneImage(model, image)
    assert torch.equal(classify(image), model(image))
    with pytest.raises(ValueError, match=r"made for \(1, 3, 64, 64\) torch.float32, got \(2, 3, 64, 64\)"):
        classify(torch.cat([image, image]))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("latency", ["--calls", "3"], " ms, 99 % below "),
        ("throughput", ["--images", "5", "--max-batch", "2"], " images/s"),
    ],
)
def test_as_a_command(name, options, says):
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--model", "atto", "--size", "64", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout and done.stdout.count("\n") == 1
