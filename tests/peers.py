"""The other implementations of ConvNeXt V2, importable: timm and transformers both import torchvision.

A torchvision built for another torch than the one beside it fails to import because two of its operators are undefined.
They are declared here then, without an implementation: nothing calls them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []  # a Library withdraws its operators when it is collected


def _make_torchvision_importable() -> None:
    try:
        importlib.import_module("torchvision")
        return
    except ImportError:  # not installed: timm will say so
        return
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(op + _SCHEMA)
    _kept.append(library)
    importlib.import_module("torchvision")


def torchvision() -> ModuleType:
    """The module torchvision. ImportError if it is not installed."""
    _make_torchvision_importable()
    return importlib.import_module("torchvision")


def timm() -> ModuleType:
    """The module timm. ImportError if it is not installed."""
    _make_torchvision_importable()
    return importlib.import_module("timm")


def transformers() -> ModuleType:
    """The module transformers. ImportError if it is not installed."""
    _make_torchvision_importable()
    return importlib.import_module("transformers")
