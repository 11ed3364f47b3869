"""Checkpoints of every ConvNeXt V2: recognise, convert in all directions, load completely or not at all.

`formats` holds one table per format, `prefixes` finds a network among names, `convert` recognises and rewrites, `files`
reads, `containers` finds the state dict in what was read, `contents` says what a file holds, `load` fits it to a model.
The command `convert` converts files.
"""

from ..errors import CheckpointError
from .convert import convert_state_dict, detect_format, remap_checkpoint_keys
from .files import read_state_dict
from .formats import FORMATS
from .load import MisfitError, load_checkpoint
from .report import LoadReport

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
