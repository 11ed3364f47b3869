"""One line per phase: what is done, how long it may take, how long it took."""

from __future__ import annotations

import time
from types import TracebackType


class Phase:
    """Prints a line when it begins and its seconds when it ends.

    Args:
        what: in a few words.
        about: seconds that it takes on two cores with a fast network; 0: not worth saying.
    """

    def __init__(self, what: str, about: int = 0) -> None:
        self.what, self.about = what, about

    def __enter__(self) -> Phase:
        self.began = time.monotonic()
        print(f"== {self.what}{f' (about {self.about} s)' if self.about else ''}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            print(f"   done in {time.monotonic() - self.began:.0f} s", flush=True)
