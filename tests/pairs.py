"""Fewer cases of a test with many parameters: so few that any two values of two parameters still meet in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, groupby

import pytest


def _met(case: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    values = sorted(case.items())
    return {(value,) for value in values} | set(combinations(values, 2))


def pairwise(cases: Sequence[dict[str, str]]) -> list[int]:
    """Numbers of the cases to keep, in order. Greedy: always the case that adds the most pairs."""
    left = [_met(case) for case in cases]
    kept = []
    while any(left):
        best = max(range(len(left)), key=lambda i: len(left[i]))
        kept.append(best)
        new = set(left[best])
        left = [pairs - new for pairs in left]
    return sorted(kept)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, of every test function, the cases that no pair of parameter values needs."""
    kept: list[pytest.Item] = []
    for _, group in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        cases = list(group)
        values = [item.callspec.params if hasattr(item, "callspec") else {"": ""} for item in cases]
        kept += [cases[i] for i in pairwise([{k: str(v) for k, v in case.items()} for case in values])]
    chosen = set(map(id, kept))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept
