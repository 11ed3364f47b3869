"""Checkpoints of every ConvNeXt V2: recognise, convert in all directions, load completely or not at all.

`formats` holds one table per format, `convert` recognises and rewrites, `files` reads, `contents` says what a file
holds, `load` fits it to a model. The command `convert` converts files.
"""

from ..errors import CheckpointError
from .convert import convert_state_dict, detect_format, remap_checkpoint_keys
from .files import read_state_dict
from .formats import FORMATS
from .load import LoadReport, MisfitError, load_checkpoint

__all__ = [
    "FORMATS",
    "CheckpointError",
    "LoadReport",
    "MisfitError",
    "convert_state_dict",
    "detect_format",
    "load_checkpoint",
    "read_state_dict",
    "remap_checkpoint_keys",
]
