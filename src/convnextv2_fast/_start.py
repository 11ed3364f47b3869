"""Ctrl-C while the command line starts: importing torch takes seconds, and a traceback of it would help nobody.

`import convnextv2_fast` in any other program changes nothing.
"""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def _is_the_command_line() -> bool:
    if os.path.basename((sys.argv or [""])[0]) == "convnextv2-fast":
        return True
    # While Python imports the package of a module that it is to run, the first argument is -m.
    words = sys.orig_argv if sys.argv[:1] == ["-m"] else []
    return __package__ in words and words[words.index(__package__) - 1] == "-m"


def _end(number: int, frame: FrameType | None) -> None:
    print("python -m convnextv2_fast: interrupted", file=sys.stderr)
    sys.exit(INTERRUPTED)


def begin() -> None:
    """From now on, Ctrl-C ends the command line in one line."""
    if _is_the_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def finish() -> None:
    """From now on, Ctrl-C is a KeyboardInterrupt, as it was before :func:`begin`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
