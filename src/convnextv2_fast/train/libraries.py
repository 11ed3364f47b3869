"""The libraries that training needs beyond torch, imported when they are needed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType

import torch

from ..checkpoints.files import first_line
from ..errors import TrainingError

# Modules of the training commands, and the packages that bring them.
PACKAGES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
    "rich": "rich",
}


def need(name: str) -> ModuleType:
    """An importable module.

    Raises:
        TrainingError: missing, or broken: above all a torchvision that was built for another torch. The message names
            the command that installs it, along with whatever else of :data:`PACKAGES` is missing.
    """
    module = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = (error.name or module).split(".")[0]
        others = [p for m, p in PACKAGES.items() if m != absent and importlib.util.find_spec(m) is None]
        package = PACKAGES.get(absent, absent)
        raise TrainingError(
            f"this needs {package}, which is not installed: pip install {' '.join([package, *others])}"
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        if module == "timm":  # it imports torchvision, which breaks more easily
            need("torchvision")
        package = PACKAGES.get(module, module)
        raise TrainingError(
            f"{package} is installed but cannot be imported ({first_line(error)}); install the one that belongs to "
            f"torch {torch.__version__}, from the index that this torch came from: "
            f"pip install --force-reinstall --no-deps {package}"
        ) from error


@contextlib.contextmanager
def blamed(options: str) -> Iterator[None]:
    """What a library raises inside is a TrainingError that names these options: their values go to it unchecked.

    An exception of any kind: each of timm's optimizers and policies has its own way of refusing."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        said = "too few values" if isinstance(error, IndexError) else first_line(error)
        raise TrainingError(f"{options}: {said}") from error


def torchvision_transforms() -> ModuleType:
    return need("torchvision.transforms")
