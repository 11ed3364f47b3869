"""What is committed under benchmarks/results: data and plots of it, nothing else."""

import re
from collections import Counter

import pytest

from benchmarks.reports import naming, tidy
from tools.docs import results

FILES = sorted(path for path in tidy.RESULTS.iterdir() if not path.name.startswith("."))
TABLES = tidy.files()
PROVIDERS = {naming.OURS, "python", "registers", *(provider for provider, _ in naming._PEERS.values())}


def check(row):
    """That a row is a measurement, and says what of."""
    assert re.fullmatch("[0-9a-f]{40}", row.commit) and row.dirty is not None and row.torch, row.key
    assert row.part and row.case and row.provider in PROVIDERS, row.key
    timed = [row.p20, row.ms, row.p80]
    assert all(figure is None for figure in timed) or (row.ms or 0) > 0, row.key
    assert None in timed or timed == sorted(timed), row.key
    assert row.peak_mib is None or row.peak_mib >= 0, row.key
    assert row.rel_error is None or 0 <= row.rel_error < 0.15, row.key
    for name, value in row.notes.items():
        assert name.isidentifier() and value, row.key


def test_only_tables_and_plots_lie_there():
    assert TABLES and {path.suffix for path in FILES} <= {".csv", ".png"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_row_is_a_measurement(path):
    rows = tidy.read(path)
    assert rows and path.read_bytes().endswith(b"\n")
    assert [key for key, times in Counter(row.key for row in rows).items() if times > 1] == []
    for row in rows:
        assert tidy.file_for(row.origin, path.stem[-10:]) == path, "one machine and day to a file, which is its name"
        check(row)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".png"], ids=lambda path: path.stem)
def test_a_plot_is_of_the_table_beside_it(path):
    found = [(plot, table) for plot in results.PLOTS for table in TABLES if plot.path(table) == path]
    assert len(found) == 1, "a plot is named after its table and part"
    plot, table = found[0]
    assert plot.current(table, tidy.read(table)), "run: python -m tools.docs"


def test_the_plots_of_the_newest_results_are_there():
    assert results.stale_plots() == [], "run: python -m tools.docs"
