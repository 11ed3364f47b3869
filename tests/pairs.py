"""Fewer cases of a test with many parameters: so few that any two values of two parameters still meet in one."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import combinations, groupby

import pytest


def _met(case: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    values = sorted(case.items())
    return {(value,) for value in values} | set(combinations(values, 2))


def pairwise(cases: Sequence[dict[str, str]], last: Container[int] = ()) -> list[int]:
    """Numbers of the cases to keep, in order. Greedy: always the case that adds the most pairs.

    Args:
        last: numbers of the cases that are kept only for pairs that no other case has.
    """
    left = [_met(case) for case in cases]
    kept = []
    while any(left):
        best = max((i for i in range(len(left)) if left[i]), key=lambda i: (i not in last, len(left[i])))
        kept.append(best)
        new = set(left[best])
        left = [pairs - new for pairs in left]
    return sorted(kept)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, of every test function, the cases that no pair of parameter values needs.

    Those marked `thorough` come last: `-m "not thorough"`, which looks at what is left here, must not take pairs away.
    """
    kept: list[pytest.Item] = []
    for _, group in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        cases = list(group)
        values = [item.callspec.params if hasattr(item, "callspec") else {"": ""} for item in cases]
        last = {i for i, item in enumerate(cases) if item.get_closest_marker("thorough") is not None}
        kept += [cases[i] for i in pairwise([{k: str(v) for k, v in case.items()} for case in values], last)]
    chosen = set(map(id, kept))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept
