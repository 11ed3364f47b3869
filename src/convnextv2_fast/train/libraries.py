"""The libraries that training needs beyond torch, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from ..checkpoints.files import first_line
from . import TrainingError


def need(name: str) -> ModuleType:
    """An importable module.

    Raises:
        TrainingError: missing, or broken: above all a torchvision that was built for another torch.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        package = name.split(".")[0]
        raise TrainingError(
            f"training needs {package}, which does not import here ({first_line(error)}); "
            f"install the {package} that belongs to torch {torch.__version__}: pip install 'convnextv2_fast[train]'"
        ) from error


def torchvision_transforms() -> ModuleType:
    return need("torchvision.transforms")
