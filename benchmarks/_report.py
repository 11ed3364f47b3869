"""The report of a run as JSON and Markdown, complete on disk after every row, whatever ends the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

COLUMNS = {
    "name": "row",
    "provider": "provider",
    "ms": "ms",
    "ms_p20": "p20",
    "ms_p80": "p80",
    "images_per_s": "img/s",
    "gb_per_s": "GB/s",
    "gflop_per_s": "GFLOP/s",
    "roofline_share": "share of ceiling",
    "peak_mib": "peak MiB",
    "max_relative_error": "rel. error",
    "status": "status",
}


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: a reader, or a run cut short, sees the old text or the new, never half of one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


class Report:
    """Rows of results under a header. A row is a dict with at least section, name, provider and status."""

    def __init__(self, directory: Path, header: dict[str, Any], resume: bool = False) -> None:
        """Starts anew, or with `resume` keeps the finished rows of an earlier run of the same commit and hardware.

        Raises:
            ValueError: `resume`, but the report there is of another commit, GPU or torch.
        """
        self.directory, self.header = directory, header
        self.rows: list[dict[str, Any]] = []
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "report.json"
        if resume and path.exists():
            earlier = json.loads(path.read_text())
            for key in ("commit", "gpu", "torch", "dry_run"):
                if earlier["header"].get(key) != header.get(key):
                    raise ValueError(
                        f"cannot resume: {key} was {earlier['header'].get(key)!r}, now {header.get(key)!r}; "
                        "give another directory"
                    )
            self.rows = [row for row in earlier["rows"] if row["status"] == "ok"]
        self.write()

    def done(self, section: str) -> list[str]:
        """Keys of the rows of a section that need not run again."""
        return [key(row) for row in self.rows if row["section"] == section and row["status"] == "ok"]

    def add(self, **row: Any) -> None:
        """Adds one row, in place of an earlier one of the same key, and writes the report."""
        same = [i for i, old in enumerate(self.rows) if old["section"] == row["section"] and key(old) == key(row)]
        if same:
            self.rows[same[0]] = row
        else:
            self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Both files."""
        document = {"header": self.header, "rows": self.rows}
        write_atomically(self.directory / "report.json", json.dumps(document, indent=1) + "\n")
        write_atomically(self.directory / "report.md", self.markdown())

    def markdown(self) -> str:
        """Header and one table for each section."""
        lines = ["# Report", ""]
        for name, value in self.header.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v}" for k, v in value.items())
            lines.append(f"- {name}: {value}")
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [row for row in self.rows if row["section"] == section]
            shown = [c for c in COLUMNS if any(row.get(c) is not None for row in rows)]
            lines += ["", f"## {section}", "", "| " + " | ".join(COLUMNS[c] for c in shown) + " |"]
            lines.append("|" + "---|" * len(shown))
            lines += ["| " + " | ".join(cell(row, c) for c in shown) + " |" for row in rows]
        return "\n".join(lines) + "\n"


def key(row: dict[str, Any]) -> str:
    """What a row is recognised by within its section."""
    return f"{row['name']} / {row['provider']}" if row.get("provider") else row["name"]


def cell(row: dict[str, Any], column: str) -> str:
    """One cell of the Markdown table."""
    value = row.get(column)
    if column == "status" and row.get("reason"):
        value = f"{value}: {row['reason']}"
    if value is None:
        return ""
    if column == "roofline_share":
        return f"{100 * value:.1f} %"
    if column == "max_relative_error":
        return f"{value:.1e}"
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
