"""What a part is given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import tidy
from ..tidy import Origin, Row


@dataclass(frozen=True)
class Context:
    """Of one part. It is handed to other processes: plain values only.

    Attributes:
        out: directory of the account; rows go to `account.csv` there, as they come.
        work: directory of logs and of what is not brought back.
        device: "cuda"; "cpu" in a dry run.
        dry: tiny shapes, nothing compiled.
        ends: when the part must have ended, on :func:`time.monotonic`'s clock.
        done: keys of the rows that are there already.
    """

    out: Path
    work: Path
    origin: Origin
    device: str
    dry: bool
    part: str = ""
    ends: float = 0.0
    done: frozenset[tuple[str, ...]] = field(default=frozenset(), repr=False)

    @property
    def rows(self) -> Path:
        return self.out / "account.csv"

    @property
    def parts(self) -> Path:
        """How each part ended."""
        return self.out / "account.parts.csv"

    def of(self, part: str, seconds: float) -> Context:
        """The context of a part that begins now and may take so many seconds."""
        done = frozenset(row.key for row in tidy.readable(self.rows))
        return replace(self, part=part, ends=time.monotonic() + seconds, done=done)

    def left(self) -> float:
        """Seconds until the part must have ended."""
        return self.ends - time.monotonic()

    def row(self, case: str, provider: str, mode: str = "", **figures: Any) -> Row:
        return Row.of(self.origin, figures.pop("part", self.part), case, provider, mode=mode, **figures)

    def add(self, case: str, provider: str, mode: str = "", **figures: Any) -> None:
        """Writes a row to disk. `part` names another part than this one."""
        tidy.append(self.rows, self.row(case, provider, mode, **figures))

    def has(
        self, case: str, provider: str, mode: str = "", batch: int | None = None, dtype: str = "", part: str = ""
    ) -> bool:
        """Whether an earlier run that is taken up again left this row."""
        return (part or self.part, case, provider, mode, "" if batch is None else str(batch), dtype) in self.done

    def say(self, text: str) -> None:
        """What the part's one line tells besides its rows: what was left out, and why."""
        with (self.work / f"{self.part}.notes").open("a", encoding="utf-8") as file:
            file.write(text.replace("\n", " ") + "\n")

    def said(self) -> list[str]:
        """What the part said, each sentence once."""
        try:
            text = (self.work / f"{self.part}.notes").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys(text.splitlines()))

    def log(self, name: str) -> Path:
        """A log file of the part."""
        return self.work / f"{self.part}-{name}.log"
