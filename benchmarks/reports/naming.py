"""The columns `provider` and `mode` of results, from the ids that `pytest benchmarks` shows."""

from __future__ import annotations

OURS = "convnextv2_fast"

_PEERS = {
    "eager": ("upstream", "eager"),  # upstream's code, operator by operator
    "channels_last": ("upstream", "channels_last"),
    "compile": ("upstream", "compile"),
    "max-autotune": ("upstream", "max-autotune"),
    "timm": ("timm", "eager"),
    "timm-compile": ("timm", "compile"),
    "timm-accelerated": (OURS, "accelerated timm"),
    "timm-max-autotune": ("timm", "max-autotune"),
    "transformers": ("transformers", "eager"),
    "transformers-compile": ("transformers", "compile"),
    "onnxruntime": ("onnxruntime", ""),
    "openvino": ("openvino", ""),
    "masked-dense": ("masked-dense", "eager"),
    "masked-dense-compile": ("masked-dense", "compile"),
    "masked-dense-max-autotune": ("masked-dense", "max-autotune"),
    "masked-dense-channels_last": ("masked-dense", "channels_last"),
    "masked-dense-compile-channels_last": ("masked-dense", "compile, channels_last"),
    "cudnn": ("pytorch", "cudnn"),
    "aten": ("pytorch", "aten"),
}


def published(provider: str, *, graph: bool = False) -> tuple[str, str]:
    """Whose code, and how it runs.

    Ours: `fast` leaves the backend to the dispatcher, "eager"; `fast-cuda` asks for one, "cuda"; `fast-compile` and
    `fast-reduce-overhead` are torch.compile's modes. `graph`: replayed as a CUDA graph, "graph" or "cuda graph".

    Raises:
        KeyError: an id that is not known here.
    """
    if provider == "fast":
        return OURS, "graph" if graph else "eager"
    if provider.startswith("fast-"):
        mode = provider.removeprefix("fast-")
        return OURS, f"{mode} graph" if graph else mode
    whose, mode = _PEERS[provider]
    if graph:
        mode = "graph" if mode == "eager" else f"{mode} graph"
    return whose, mode
