"""The child of `compare`: times the convnextv2_fast that is first on its path, one call at a time, as it is asked to.

python worker.py TIMING reads a JSON object a line and answers with one. {"prepare": case} builds a case and
gives the seconds of a call; {"turn": calls} gives the seconds of each, over so many. It uses public functions only, so
that any revision can be measured; TIMING is the file of the engine, the same for all.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SILENCE = 0.02  # seconds before a turn on a CPU: idle threads of the process before may still take its cores
KEPT = 0.4  # FCMAE's share of visible patches
WARM_CALLS = 3


def engine(path: str) -> ModuleType:
    """The module of that file, whatever package is on the path."""
    spec = importlib.util.spec_from_file_location("timing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["timing"] = module
    spec.loader.exec_module(module)
    return module


def patches(n: int, side: int, device: str) -> Any:
    """FCMAE's layout: 40 % of 7 x 7 patches, of side / 7 sites each."""
    from convnextv2_fast.layouts import PatchLayout

    order = torch.rand(n, 49, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    kept = int(49 * KEPT)
    return PatchLayout.from_mask((order >= kept).float().to(device).view(n, 7, 7), side // 7, kept=kept)


def called(case: dict[str, Any]) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The forward pass of a case, and the leaves that get a gradient from it."""
    import convnextv2_fast as cf
    from convnextv2_fast import testing

    op, n, side, c, device = (case[name] for name in ("op", "batch", "side", "channels", "device"))
    dtype = getattr(torch, case["dtype"])
    generator = torch.Generator().manual_seed(1)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    if op in ("block", "sparse-block"):
        torch.manual_seed(0)
        sparse = op == "sparse-block"
        from convnextv2_fast.layouts import SparseTensor
        from convnextv2_fast.models import convnextv2, convnextv2_sparse

        module = (convnextv2_sparse if sparse else convnextv2).Block(c)
        module = testing.randomise(module).to(device, dtype).train(case["backward"])
        if not sparse:
            x = leaf(n, c, side, side)
            return lambda: module(x), [x, *module.parameters()]
        layout = patches(n, side, device)
        rows = leaf(layout.rows, c)
        return lambda: module(SparseTensor(rows, layout)).F, [rows, *module.parameters()]
    if op == "sparse_dwconv":
        layout = patches(n, side, device)
        tensors = [leaf(layout.rows, c), leaf(49, c), leaf(c)]
        return lambda: cf.ops.sparse_dwconv(*tensors, layout=layout), tensors
    problem = testing.make(op, n, side, side, c).to(dtype, device=device)
    problem.tensors.pop("row_scale", None)
    if op == "patch_conv":  # a model's width, not the tests' odd one
        problem.tensors |= {"weight": leaf(2 * c, c, 2, 2), "bias": leaf(2 * c)}
    return problem.public, list(problem.tensors.values())


def step(case: dict[str, Any]) -> Callable[[int], object]:
    """What is timed: a forward pass without gradients, or one with all of them."""
    forward, leaves = called(case)
    if not case["backward"]:

        def infer(_: int) -> Tensor:
            with torch.no_grad():
                return forward()

        return infer
    gradient = torch.randn_like(forward())

    def train(_: int) -> object:
        return torch.autograd.grad(forward(), leaves, gradient)

    return train


def main(timing: ModuleType) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    run: Callable[[int], object] = lambda i: None  # noqa: E731
    device = "cpu"
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "prepare" in asked:
                case = asked["prepare"]
                device = case["device"]
                if case.get("threads"):
                    torch.set_num_threads(case["threads"])
                run = step(case)
                watch = timing.watch_for(device)
                watch.measure(run, 0, WARM_CALLS)
                answer: dict[str, Any] = {"seconds": watch.measure(run, 0, 1)}
            else:
                gc.collect(1)
                gc.disable()
                if device == "cpu":
                    time.sleep(SILENCE)
                watch.measure(run, 0, 1)
                answer = {"seconds": watch.measure(run, 0, asked["turn"]) / asked["turn"]}
                gc.enable()
        except Exception as error:  # a revision without this op, or whose op fails, is a row of the table
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    main(engine(sys.argv[1]))
