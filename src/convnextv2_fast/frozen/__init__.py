"""Models frozen for inference on the CPU: one operator, and weights that are constants."""

from .freezing import freeze, is_frozen, unfreeze

__all__ = ["freeze", "is_frozen", "unfreeze"]
