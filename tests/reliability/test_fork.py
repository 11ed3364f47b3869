"""fork(): after import, after use on several threads as in a DataLoader's workers, while another thread is at work.

What torch itself does not survive is left out: after a backward pass its autograd threads are gone in the child, so
there it infers only; its random generator has a lock that the child may inherit locked; and torch's own operators on
two threads, in a child of a process where they have used two, hang in libgomp. This library's kernels do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

START = """
import os, sys, threading, time, torch
import convnextv2_fast as cf
SMALL = dict(num_classes=3, depths=(1, 1, 1, 1), dims=(40, 80, 160, 320))

made = []

def use(train=True):
    # inference with packed weights, and a training step; the same numbers in every process
    if not made:
        torch.manual_seed(0)
        made[:] = cf.ConvNeXtV2(**SMALL), torch.randn(2, 3, 64, 64)
    model, x = made
    model.zero_grad()
    with torch.no_grad():
        y = model.eval()(x)
    if not train:
        return [y]
    model.train()(x).square().sum().backward()
    return [y, *(p.grad for p in model.parameters())]

def child(threads=None, train=True):
    # what the child found, through a pipe: a list of tensors
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if threads:
                torch.set_num_threads(threads)
            with os.fdopen(write, "wb") as pipe:
                torch.save(use(train), pipe)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    import io
    return torch.load(io.BytesIO(data))

def same(a, b):
    assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
"""

CASES = {
    "after import": "found = child(); same(found, use())",  # on as many threads as torch takes
    "after import, in two generations": """
if os.fork() == 0:
    same(child(), use())
    os._exit(0)
assert os.wait()[1] == 0
""",
    "after use, one thread in the child": "torch.set_num_threads(2); same(use()[:1], child(1, train=False))",
    "after use, kernels on several threads in the child": """
from convnextv2_fast import library, testing
library.assume_cpus(3)
torch.set_num_threads(3)
use()  # torch's threads are at work too
problems = [testing.make(op, 1, 28, 28, 40).to(torch.float32, False) for op in testing.ALL_OPS]
def kernels():
    with torch.inference_mode():
        return [problem.public().contiguous().view(-1).tolist() for problem in problems]
want = kernels()
norm = torch.ones(4096, 256), torch.ones(256), torch.ones(256)
use()  # this thread has trained last: the child must not go on with threads of torch's that it does not have
for generation in range(3):
    if os.fork() != 0:
        assert os.wait()[1] == 0
        os._exit(0)
    cf.ops.layer_norm(*norm)  # an operator of training and of inference
    assert kernels() == want
    end = time.monotonic() + 30
    names = []
    while names.count("cnv2-worker\\n") != 2 and time.monotonic() < end:  # a thread names itself when it first runs
        names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    assert names.count("cnv2-worker\\n") == 2, names
os._exit(0)  # torch joins threads at an ordinary exit that the child does not have
""",
    "after use, frozen models on several threads in the child": """
from convnextv2_fast import library
library.assume_cpus(3)
torch.set_num_threads(3)
use()  # torch's threads are at work too
model, x = cf.freeze(made[0].eval()), made[1]
half = cf.freeze(cf.ConvNeXtV2(**SMALL).eval().bfloat16())
def frozen():
    with torch.inference_mode():
        return [model(x), half(x.bfloat16())]
want = frozen()
if os.fork() == 0:
    same(frozen(), want)
    os._exit(0)
assert os.wait()[1] == 0
same(frozen(), want)
os._exit(0)
""",
    "after use, weights change in the child": """
torch.set_num_threads(1)
want = use(train=False)
if os.fork() == 0:
    import copy
    for p in made[0].parameters():
        p.data.view(-1)[-1] += 0.5
    got = use(train=False)
    made[0] = copy.deepcopy(made[0])
    same(got, use(train=False))
    assert not torch.equal(got[0], want[0])
    os._exit(0)
assert os.wait()[1] == 0
same(use(train=False), want)
""",
    "while another thread is at work": """
torch.set_num_threads(1)
want, stop = use(train=False), threading.Event()
def work():
    while not stop.is_set():
        use(train=False)
busy = threading.Thread(target=work); busy.start()
try:
    for _ in range(5):
        same(child(1, train=False), want)
finally:
    stop.set(); busy.join()
""",
    "workers of a DataLoader": """
from torch.utils.data import DataLoader, Dataset
class Features(Dataset):
    def __init__(self):
        torch.manual_seed(0)
        self.model = cf.ConvNeXtV2(**SMALL).eval()
    def __len__(self):
        return 8
    @torch.no_grad()
    def __getitem__(self, i):
        return self.model(torch.full((1, 3, 64, 64), float(i)))[0]
data = Features()
want = torch.stack([data[i] for i in range(8)])
got = torch.cat(list(DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")))
assert torch.equal(got, want)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_fork(case):
    command = [sys.executable, "-W", "ignore", "-c", START + CASES[case]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
