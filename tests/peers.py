"""The other implementations of ConvNeXt V2, importable: timm and transformers both import torchvision, which the import
of `torchvision_operators` lets in beside a torch that it was not built for."""

from __future__ import annotations

import importlib
from types import ModuleType

from tools.environment import torchvision_operators  # noqa: F401


def torchvision() -> ModuleType:
    """The module torchvision. ImportError if it is not installed."""
    return importlib.import_module("torchvision")


def timm() -> ModuleType:
    """The module timm. ImportError if it is not installed."""
    return importlib.import_module("timm")


def transformers() -> ModuleType:
    """The module transformers. ImportError if it is not installed."""
    return importlib.import_module("transformers")
