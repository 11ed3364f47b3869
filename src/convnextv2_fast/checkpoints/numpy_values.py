"""Stand-ins for the functions of numpy that a pickle names, for numbers and arrays that lie beside the weights.

Training loops save a best accuracy or a random state as numpy has it, and torch's restricted unpickler refuses a file
that names any function of numpy. What is in a file must not reach numpy's own either: a crafted dtype makes it read
foreign memory. So these take their place. They turn numbers into Python's, and everything else into an inert object.
"""

from __future__ import annotations

import struct
from typing import Any

_CODES = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "f2": "e", "f4": "f", "f8": "d"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}


class NumpyType:
    """Stands for a `numpy.dtype`: its code, such as "f8", and its byte order."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


class NumpyValue:
    """Stands for an array, or for a scalar that is no number. Holds nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _scalar(dtype: Any = None, data: Any = None, *_: Any) -> Any:
    """A Python number, where the type is one that has one."""
    code = _CODES.get(dtype.code) if isinstance(dtype, NumpyType) else None
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize(code):
        return NumpyValue()
    return struct.unpack(dtype.order + code, data)[0]


def _reconstruct(*_: Any) -> NumpyValue:
    return NumpyValue()


STAND_INS: dict[str, Any] = {
    "numpy.dtype": NumpyType,
    "numpy.ndarray": NumpyValue,
    # numpy 2 moved the module; a file keeps the name that its writer's numpy had
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
}
"""Stand-ins by the name that a pickle calls for."""
