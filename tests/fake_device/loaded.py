"""A plugin of pytest that loads the library named by FAKE_DEVICE: before torch, which asks for its hooks but once."""

import ctypes
import os

ctypes.CDLL(os.environ["FAKE_DEVICE"])
