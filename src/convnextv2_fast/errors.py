"""The exceptions of the package; they import nothing, so that every module can raise them.

`checkpoints.MisfitError`, a `CheckpointError` that also holds what the checkpoint and the model contain, is beside the
code that fills it.
"""


class UnsupportedInputError(ValueError):
    """The input is malformed, or the chosen backend cannot run it. The message says what would work."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, recognised, converted, or fitted to the model. Nothing was changed."""


class TrainingError(Exception):
    """A training run cannot start or continue. The message says what would help."""


class CaptureError(RuntimeError):
    """A model or a training step cannot be held by a CUDA graph. The message says what would work."""
