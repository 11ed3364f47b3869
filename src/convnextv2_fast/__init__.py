"""ConvNeXt V2 and FCMAE on hand-written kernels: upstream's classes, names, checkpoints and mathematics.

    import convnextv2_fast as cf
    model = cf.convnextv2_tiny(num_classes=1000)

Importing initialises no device and compiles nothing, and works without any binary.
"""

# ruff: noqa: E402
from . import _start

_start.begin()  # before what takes seconds to import

from . import dispatch, graphs, layouts, library, models, ops, reference
from ._version import __version__
from .adapters import AccelerateReport, accelerate, restore
from .checkpoints import LoadReport, convert_state_dict, load_checkpoint
from .dispatch import explain, use_backend
from .errors import CheckpointError, UnsupportedInputError
from .frozen import freeze, is_frozen, unfreeze
from .library import build_info
from .models import convnextv2, convnextv2_sparse, fcmae, utils
from .models.convnextv2 import (
    ConvNeXtV2,
    convnext_pico,
    convnextv2_atto,
    convnextv2_base,
    convnextv2_femto,
    convnextv2_huge,
    convnextv2_large,
    convnextv2_nano,
    convnextv2_pico,
    convnextv2_tiny,
)

__all__ = [
    "AccelerateReport",
    "CheckpointError",
    "ConvNeXtV2",
    "LoadReport",
    "UnsupportedInputError",
    "__version__",
    "accelerate",
    "build_info",
    "convert_state_dict",
    "convnext_pico",
    "convnextv2",
    "convnextv2_atto",
    "convnextv2_base",
    "convnextv2_femto",
    "convnextv2_huge",
    "convnextv2_large",
    "convnextv2_nano",
    "convnextv2_pico",
    "convnextv2_sparse",
    "convnextv2_tiny",
    "dispatch",
    "explain",
    "fcmae",
    "freeze",
    "graphs",
    "is_frozen",
    "layouts",
    "library",
    "load_checkpoint",
    "models",
    "ops",
    "reference",
    "restore",
    "unfreeze",
    "use_backend",
    "utils",
]
