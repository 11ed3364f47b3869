"""Inference and whole training steps as CUDA graphs.

On a GPU a step of a small model waits for Python, which launches its kernels one by one. A CUDA graph launches them
all at once. :func:`inference` makes graphs of a model's calls, :class:`TrainingStep` of training steps; both run
eagerly where no graph can serve, and say why.

* `capture` is the seam to `torch.cuda`; `shelf` keeps graphs and decides when one is made.
* `calls` takes arguments apart, `watch` notices what a graph of a model would not.
* `optimizers`, `averages` and `wrappers` know what may be part of a training step's graph.
"""

import contextlib
from typing import Any

import torch

from ..errors import CaptureError
from . import capture
from .inference import Inference, inference
from .training import StepResult, TrainingStep

__all__ = ["CaptureError", "Inference", "StepResult", "TrainingStep", "inference", "side_stream"]


def side_stream(device: torch.device | str) -> contextlib.AbstractContextManager[Any]:
    """A context in which DistributedDataParallel has to be built around a model whose steps become graphs: what it
    keeps then belongs to the stream that is captured. On a CPU it does nothing."""
    device = torch.device(device)
    return capture.recorder.building(device) if device.type == "cuda" else contextlib.nullcontext()
