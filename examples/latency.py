"""One image at a time, as fast as it goes.

A frozen model is one operator on a CPU and one CUDA graph on a GPU.

    python examples/latency.py --model tiny --checkpoint convnextv2_tiny_1k_224_ema.pt
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import convnextv2_fast as cf


class OneImage:
    """A model for batches of one fixed shape; the first calls happen here, so that the first request is not the slow
    one.

    Args:
        model: any module that takes `[N, 3, H, W]` and returns a tensor, in eval mode; best frozen by
            :func:`convnextv2_fast.freeze`.
        example: what it will be given: shape, dtype, device.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.shape, self.dtype = model, example.shape, example.dtype
        for _ in range(3):  # on a GPU the third call makes the graph
            self(example)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """The model's output.

        Raises:
            ValueError: another shape or dtype than the example's.
        """
        if image.shape != self.shape or image.dtype != self.dtype:
            raise ValueError(f"made for {tuple(self.shape)} {self.dtype}, got {tuple(image.shape)} {image.dtype}")
        return self.model(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint", help="any that load_checkpoint knows; else random weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--calls", type=int, default=100)
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    model = getattr(cf, f"convnextv2_{args.model}")().eval()
    if args.checkpoint:
        cf.load_checkpoint(model, args.checkpoint, head="keep")
    if gpu:
        model = model.to("cuda", torch.bfloat16)
    if gpu or cf.library.why_not("cpu") is None:
        cf.freeze(model)
    weights = next(model.parameters())
    image = torch.randn(1, 3, args.size, args.size).to(weights)
    classify = OneImage(model, image)
    times = []
    for _ in range(args.calls):
        begin = time.perf_counter()
        classify(image).argmax(-1).item()  # .item() waits for the result
        times.append(1e3 * (time.perf_counter() - begin))
    steps = statistics.quantiles(times, n=100, method="inclusive")
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    print(f"{args.model}, {args.size}x{args.size}, {where}: {steps[49]:.2f} ms, 99 % below {steps[98]:.2f} ms")


if __name__ == "__main__":
    main()
