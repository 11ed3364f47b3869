"""What a person sees of a run: a progress bar on a terminal; elsewhere a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

SECONDS = 10.0  # between lines
BAR = 8  # least columns of a progress bar


class Display:
    """Writes to stderr.

    Args:
        title: of the run. total: its optimizer steps. done: those that an earlier command did.
    """

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self._said, self._bar = title, total, 0.0, None
        self._task: Any = None
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(stderr=True)
            if console.is_terminal:
                left, right = (TextColumn("{task.fields[" + side + "]}", markup=False) for side in ("left", "right"))
                self._bar = Progress(left, BarColumn(bar_width=None), right, console=console, expand=True)
                self._bar.start()
                self._task = self._bar.add_task("", total=total, completed=done, left=title, right=f"{done}/{total}")
        self._began, self._first = time.monotonic(), done

    def say(self, text: str) -> None:
        """A line for a person."""
        with _whatever_becomes_of_it():
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)

    def steps(self, last: dict[str, Any], images_per_second: float) -> None:
        """Shows a finished optimizer step: `step` (of the run), `epoch`, `loss`."""
        done, now = last["step"] + 1, time.monotonic()
        seconds = (now - self._began) / max(done - self._first, 1) * (self.total - done)
        step, epoch, loss = f"{done}/{self.total}", f"epoch {last['epoch']}", f"loss {last['loss']:.4f}"
        speed, left = f"{images_per_second:.1f} images/s", f"{duration(seconds)} left"
        if self._bar is not None:
            # from the most to the least wanted: what has no room is left out
            wanted = (left, speed, step, loss, self.title, epoch)
            shown = fitting(wanted, self._bar.console.width - BAR - 2)
            title = self.title if self.title in shown else ""
            right = "  ".join(part for part in (step, epoch, loss, speed, left) if part in shown)
            self._bar.update(self._task, completed=done, left=title, right=right)
        elif now - self._said > SECONDS or done == self.total:
            self._said = now
            self.say(f"step {step}  {epoch}  {loss}  {speed}  {left}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def _whatever_becomes_of_it() -> Iterator[None]:
    """stderr may be a file on a full disk, which must not end a run. That its reader has gone does."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass


def fitting(parts: Sequence[str], width: int) -> list[str]:
    """The first parts, as many as fit into `width` columns with two columns between them."""
    shown: list[str] = []
    for part in parts:
        width -= len(part) + 2 * bool(shown)
        if width < 0:
            break
        shown.append(part)
    return shown


def duration(seconds: float) -> str:
    """`1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
