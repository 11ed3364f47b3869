"""The models against float64, in every precision: small ones here, all eight in the committed result."""

import pytest

from benchmarks.reports import numerics_report, tidy
from benchmarks.reports.program import Run
from benchmarks.reports.tidy import Origin
from convnextv2_fast.models.convnextv2 import SIZES


@pytest.mark.slow
@pytest.mark.parametrize("size", ["atto", "nano"])
def test_no_worse_than_twice_plain_pytorch(size, tmp_path):
    run = Run(Origin("here", "", commit="abc"), "2030-01-01", tmp_path / "rows.csv", save=False)
    tidy.write(run.path, [])
    numerics_report.measured(run, size, modes=("eager",))
    pairs = numerics_report.pairs(tidy.read(run.path))
    assert len(pairs) == len(numerics_report.PRECISIONS)
    assert all(pair.within for kinds in pairs.values() for pair in kinds.values()), pairs


def test_the_result_covers_every_model_precision_and_mode():
    pairs = numerics_report.pairs(tidy.newest("numerics")[1])
    plain = [p.name for p in numerics_report.PRECISIONS if p.autocast is None]
    cases = [(p, mode) for p in plain for mode in numerics_report.MODES]
    cases += [(p.name, "eager") for p in numerics_report.PRECISIONS if p.autocast is not None]
    assert set(pairs) == {(size, *case) for size in SIZES for case in cases}
    assert all(set(kinds) == set(numerics_report.KINDS) for kinds in pairs.values())
    assert all(pair.within for kinds in pairs.values() for pair in kinds.values())
