"""Upstream's published fine-tuning settings (ImageNet-1K at 224 px, its TRAINING.md), by size.

They are for 1024 images a step: batch size x update frequency x processes. Upstream publishes no others.
"""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "batch_size": 32,
    "update_freq": 4,
    "reprob": 0.25,
    "model_ema": True,
    "model_ema_eval": True,
    "use_amp": True,
}
RECIPES: dict[str, dict[str, Any]] = {
    "atto": {
        **_COMMON,
        "model": "convnextv2_atto",
        "blr": 2e-4,
        "epochs": 600,
        "warmup_epochs": 0,
        "layer_decay_type": "single",
        "layer_decay": 0.9,
        "weight_decay": 0.3,
        "drop_path": 0.1,
        "mixup": 0.0,
        "cutmix": 0.0,
        "smoothing": 0.2,
    },
    "tiny": {
        **_COMMON,
        "model": "convnextv2_tiny",
        "blr": 8e-4,
        "epochs": 300,
        "warmup_epochs": 40,
        "layer_decay_type": "single",
        "layer_decay": 0.9,
        "weight_decay": 0.05,
        "drop_path": 0.2,
        "mixup": 0.8,
        "cutmix": 1.0,
        "smoothing": 0.1,
    },
    "base": {
        **_COMMON,
        "model": "convnextv2_base",
        "blr": 6.25e-4,
        "epochs": 100,
        "warmup_epochs": 20,
        "layer_decay_type": "group",
        "layer_decay": 0.6,
        "weight_decay": 0.05,
        "drop_path": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "smoothing": 0.1,
    },
}
