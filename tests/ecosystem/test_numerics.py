"""The models against float64, in every precision: small ones here, all eight in the committed report."""

import json

import pytest

from benchmarks import numerics_report
from convnextv2_fast.models.convnextv2 import SIZES
from tools.docs.blocks import newest


@pytest.mark.slow
@pytest.mark.parametrize("size", ["atto", "nano"])
def test_no_worse_than_twice_plain_pytorch(size):
    rows = list(numerics_report.rows(size, modes=("eager",)))
    assert len(rows) == len(numerics_report.PRECISIONS)
    assert all(row["within"] for row in rows), rows


def test_the_report_covers_every_model_precision_and_mode():
    rows = json.loads(newest("numerics").read_text())["rows"]
    plain = [p.name for p in numerics_report.PRECISIONS if p.autocast is None]
    cases = [(p, mode) for p in plain for mode in numerics_report.MODES]
    cases += [(p.name, "eager") for p in numerics_report.PRECISIONS if p.autocast is not None]
    assert {(r["model"], r["precision"], r["mode"]) for r in rows} == {(s, *case) for s in SIZES for case in cases}
    assert all(row["within"] for row in rows)
