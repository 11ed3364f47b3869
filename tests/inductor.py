"""Whether torch.compile's default backend works where torch lies."""

import pytest
import torch

WHY_NOT = "torch lies under a path with a space, which Inductor does not quote when it calls the C++ compiler"
BROKEN = " " in torch.__path__[0]
needs_inductor = pytest.mark.skipif(BROKEN, reason=WHY_NOT)
