"""Requests of one image each, answered in batches: a server's inner loop.

Many threads call `submit` and get a future. One thread takes what has come, at most `max_batch` images, waiting at most
`max_wait` for more; lays them into pinned memory as uint8; copies them to the device without waiting; and while the
device works on that batch hands out the answers of the one before. Pixels are normalised on the device, so a quarter of
float32's bytes cross the bus.

    python examples/throughput.py --model tiny --max-batch 64
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import convnextv2_fast as cf

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class _Slot:
    """Where one batch lies on its way in and out; free again when its answers are given."""

    pixels: Tensor  # uint8 [max_batch, 3, size, size], pinned on a GPU
    futures: list[Future[Tensor]]
    answers: Tensor | None = None  # on the CPU; complete once `done` has passed
    done: torch.cuda.Event | None = None


class Batcher:
    """Runs a classifier on single images in batches; use it as a context manager, or call `close`.

    Args:
        model: takes normalised images `[N, 3, size, size]` and returns `[N, K]`; in eval mode, on its device.
        size: height and width in pixels.
        max_batch: images in a batch at most.
        max_wait: seconds that the first image of a batch waits for others.
    """

    def __init__(self, model: nn.Module, size: int = 224, max_batch: int = 64, max_wait: float = 0.002) -> None:
        self.model, self.size, self.max_batch, self.max_wait = model, size, max_batch, max_wait
        weights = next(model.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(MEAN, device=self.device).view(shape) * 255
        self.std = torch.tensor(STD, device=self.device).view(shape) * 255
        pinned = self.device.type == "cuda"
        self._slots = [
            _Slot(torch.empty(max_batch, 3, size, size, dtype=torch.uint8, pin_memory=pinned), []) for _ in range(2)
        ]
        self._waiting: queue.SimpleQueue[tuple[Tensor, Future[Tensor]] | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, image: Tensor) -> Future[Tensor]:
        """The logits `[K]`, on the CPU, of one image, uint8 `[3, size, size]`, to come. Any thread may call.

        Raises:
            ValueError: not such an image. RuntimeError: closed.
        """
        if image.dtype != torch.uint8 or image.shape != (3, self.size, self.size):
            want = f"uint8 [3, {self.size}, {self.size}]"
            raise ValueError(f"an image is {want}, this is {image.dtype} {list(image.shape)}")
        future: Future[Tensor] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("this Batcher is closed")
            self._waiting.put((image, future))
        return future

    def close(self) -> None:
        """Answers what was submitted, then stops. Calling it again is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loop(self) -> None:
        running: _Slot | None = None  # the batch that the device works on
        turn, more = 0, True
        while more:
            slot = self._slots[turn % 2]
            more = self._collect(slot, block=running is None)
            if slot.futures:
                self._launch(slot)
                turn += 1
            if running is not None:
                self._answer(running)
            running = slot if slot.futures else None
        if running is not None:
            self._answer(running)

    def _collect(self, slot: _Slot, block: bool) -> bool:
        """Fills the slot; False when the last request has been taken. Without `block` it may stay empty."""
        deadline = None
        while len(slot.futures) < self.max_batch:
            try:
                if deadline is None:
                    item = self._waiting.get(block=block)
                    deadline = time.monotonic() + self.max_wait
                else:
                    item = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return True
            if item is None:
                return False
            image, future = item
            if future.set_running_or_notify_cancel():
                slot.pixels[len(slot.futures)].copy_(image)
                slot.futures.append(future)
        return True

    @torch.inference_mode()
    def _launch(self, slot: _Slot) -> None:
        """Starts the batch; on a GPU it returns before the batch is done."""
        try:
            x = slot.pixels[: len(slot.futures)].to(self.device, non_blocking=True)
            x = ((x.float() - self.mean) / self.std).to(self.dtype)
            logits = self.model(x).float()
            slot.done, slot.answers = (
                None,
                torch.empty(logits.shape, pin_memory=logits.is_cuda).copy_(logits, non_blocking=True),
            )
            if logits.is_cuda:
                slot.done = torch.cuda.Event()
                slot.done.record()
        except Exception as error:  # the requests of this batch fail, the server goes on
            for future in slot.futures:
                future.set_exception(error)
            slot.answers, slot.futures = None, []

    def _answer(self, slot: _Slot) -> None:
        """Waits for the batch and hands out its rows."""
        futures, slot.futures = slot.futures, []
        try:
            if slot.done is not None:
                slot.done.synchronize()
        except Exception as error:
            for future in futures:
                future.set_exception(error)
            return
        assert slot.answers is not None
        for future, row in zip(futures, slot.answers.unbind(), strict=True):
            future.set_result(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--checkpoint", help="any that load_checkpoint knows; else random weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    model = getattr(cf, f"convnextv2_{args.model}")().eval()
    if args.checkpoint:
        cf.load_checkpoint(model, args.checkpoint, head="keep")
    if gpu:
        model = model.to("cuda", torch.bfloat16)
    elif cf.library.why_not("cpu") is None:
        cf.freeze(model)  # on a GPU it would keep a CUDA graph for each number of images
    images = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8)
    with Batcher(model, args.size, args.max_batch) as batcher:
        for future in [batcher.submit(image) for image in images[: args.max_batch]]:  # the first batch is the slow one
            future.result()
        begin = time.perf_counter()
        for future in [batcher.submit(image) for image in images]:
            future.result()
        seconds = time.perf_counter() - begin
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    what = f"{args.model}, {args.size}x{args.size}, batches of {args.max_batch}, {where}"
    print(f"{what}: {args.images / seconds:.1f} images/s")


if __name__ == "__main__":
    main()
