"""Optional tuning of tile sizes on the device at hand: CONVNEXTV2_FAST_AUTOTUNE=1.

Each choice is timed once and kept in `$CONVNEXTV2_FAST_CACHE`, by default `$XDG_CACHE_HOME/convnextv2_fast` or
`~/.cache/convnextv2_fast`, in one JSON file per GPU model and Triton version. Off, the static tables decide. A tile
changes the order of summation, so results are the same bits from run to run only with the same file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import triton

from .chip import Chip

ENVIRONMENT = "CONVNEXTV2_FAST_AUTOTUNE"
CACHE = "CONVNEXTV2_FAST_CACHE"
Tile = TypeVar("Tile")
_loaded: dict[Path, dict[str, list[int]]] = {}


def enabled() -> bool:
    """Whether tuning is asked for."""
    return os.environ.get(ENVIRONMENT, "0") not in ("", "0")


def path(chip: Chip) -> Path:
    """The file that holds the choices for this GPU model."""
    base = os.environ.get(CACHE)
    folder = (
        Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "convnextv2_fast"
    )
    model = re.sub(r"\W+", "-", chip.name).strip("-").lower()
    return folder / f"{model}-triton-{triton.__version__}.json"


def _choices(file: Path) -> dict[str, list[int]]:
    if file not in _loaded:
        try:
            _loaded[file] = dict(json.loads(file.read_text()))
        except (OSError, ValueError):  # none yet, or a damaged one: tuning writes it anew
            _loaded[file] = {}
    return _loaded[file]


def _save(file: Path, key: str, value: list[int]) -> None:
    """Adds a choice to what the file holds by now; whole or not at all, whoever else writes."""
    _loaded.pop(file, None)
    choices = _choices(file)
    choices[key] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(choices, indent=1, sort_keys=True))
    draft.replace(file)


def pick(
    key: str, chip: Chip, default: Tile, candidates: Callable[[], Iterable[Tile]], run: Callable[[Tile], Any]
) -> Tile:
    """The tile to launch with: `default`, or with tuning on the fastest of `default` and `candidates`.

    Args:
        key: names the kernel and what its speed depends on.
        default, candidates: dataclasses of ints.
        run: launches with a tile.
    """
    if not enabled():
        return default
    file = path(chip)
    known = _choices(file).get(key)
    if known is not None:
        return type(default)(*known)
    times: dict[Tile, float] = {}
    for tile in dict.fromkeys([default, *candidates()]):
        try:
            times[tile] = measure(lambda tile=tile: run(tile))
        except triton.runtime.errors.OutOfResources:
            continue
    best = min(times, key=times.__getitem__)
    _save(file, key, list(dataclasses.astuple(best)))  # type: ignore[call-overload]
    return best


def measure(call: Callable[[], Any]) -> float:
    """Median milliseconds of a call on the device."""
    return float(triton.testing.do_bench(call, warmup=5, rep=20, return_mode="median"))
