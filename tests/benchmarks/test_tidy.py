"""Results as data: rows, the files they lie in, and what may be kept."""

import math
from dataclasses import replace

import pytest

from benchmarks.reports import tidy
from benchmarks.reports.tidy import Origin, Row

CLEAN = Origin("Some(R) CPU, avx2, 2 threads", "2.13.0+cpu", "3.9.0", "a" * 40, False)
ROWS = [
    Row.of(CLEAN, "inference", "convnextv2_atto-224px-forward", "timm", mode="eager", batch=8, dtype="amp", ms=1.25),
    Row.of(CLEAN, "inference", "b", "convnextv2_fast", p20=1.0, ms=2.0, p80=3e-7, note="rounds=15; best_ms=1.5"),
    Row.of(CLEAN, "memory", 'a "quoted", case', "upstream", peak_mib=12.5, rel_error=1.5e-7),
    Row.of(replace(CLEAN, dirty=None, triton="", commit=""), "ceilings", "copy", "pytorch", note="gb_per_s=24.3"),
]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.csv"
    tidy.write(path, ROWS)
    assert tidy.read(path) == ROWS
    assert path.read_text().splitlines()[0] == ",".join(tidy.COLUMNS)
    assert ROWS[1].notes == {"rounds": "15", "best_ms": "1.5"} and ROWS[3].origin.dirty is None


def test_rows_are_added_one_by_one(tmp_path):
    path = tmp_path / "a.csv"
    tidy.write(path, [])
    assert tidy.read(path) == []
    for i, row in enumerate(ROWS):
        tidy.append(path, row)
        assert tidy.read(path) == ROWS[: i + 1]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "a.csv"
    tidy.write(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert tidy.read(path) == ROWS[:-1]
    path.write_bytes(whole[: whole.rfind(b"\n", 0, -1) + 30])
    assert tidy.read(path) == ROWS[:-1]


@pytest.mark.parametrize("figures", [{}, {"mode": "eager", "batch": 8}, {"note": "no figure"}])
def test_a_row_needs_a_figure(figures):
    with pytest.raises(ValueError, match="a row needs a figure"):
        Row.of(CLEAN, "inference", "a", "timm", **figures)


@pytest.mark.parametrize("name", tidy._FIGURES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_is_finite(name, value):
    with pytest.raises(ValueError, match="not finite"):
        Row.of(CLEAN, "inference", "a", "timm", **{name: value})


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.csv"
    tidy.write(path, ROWS)
    path.write_text(path.read_text().replace(",1.25,", ",fast,"))
    with pytest.raises(ValueError, match=r"a\.csv, line 2: .*fast"):
        tidy.read(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv: the columns are not machine, "):
        tidy.read(path)


def test_a_row_of_the_same_key_is_replaced():
    newer = replace(ROWS[0], ms=9.0)
    other = replace(ROWS[0], batch=1)
    assert tidy.merge(ROWS, [newer, other]) == [newer, *ROWS[1:], other]


def test_a_run_replaces_its_parts_of_that_day(tmp_path):
    rows = ROWS[:3]
    path = tidy.keep(rows, "2030-01-02", tmp_path / "kept")
    assert path.name == "some-cpu-avx2-2-threads-2030-01-02.csv" and tidy.read(path) == rows
    later = [replace(rows[0], commit="b" * 40, ms=7.0)]
    assert tidy.keep(later, "2030-01-02", tmp_path / "kept") == path
    assert tidy.read(path) == [rows[2], *later], "the part measured again is whole and new, the other stays"
    assert tidy.keep(later, "2030-01-03", tmp_path / "kept") != path


@pytest.mark.parametrize("origin", [replace(CLEAN, dirty=True), replace(CLEAN, dirty=None), replace(CLEAN, commit="")])
def test_results_are_kept_from_a_clean_tree_only(tmp_path, monkeypatch, origin):
    monkeypatch.setattr(tidy, "RESULTS", tmp_path)
    rows = [replace(ROWS[0], commit=origin.commit, dirty=origin.dirty)]
    with pytest.raises(ValueError, match="from a clean tree only"):
        tidy.keep(rows, "2030-01-02", tmp_path)
    assert not list(tmp_path.iterdir())
    assert tidy.keep(rows, "2030-01-02", tmp_path / "elsewhere").exists()


def test_rows_kept_together_share_an_origin(tmp_path):
    for rows in ([], ROWS):
        with pytest.raises(ValueError, match="share one origin"):
            tidy.keep(rows, "2030-01-02", tmp_path)


def test_the_newest_result_of_a_part(tmp_path):
    def kept(part, date, machine="CPU, 2 threads", case="a"):
        row = Row.of(replace(CLEAN, machine=machine), part, case, "timm", ms=1.0)
        return tidy.keep([row], date, tmp_path), row

    kept("ops", "2030-01-01")
    second, row = kept("ops", "2030-01-02")
    third, other = kept("inference", "2030-01-03")
    gpu, at_gpu = kept("ops", "2030-01-04", machine="A GPU", case="b-x")
    (tmp_path / "a-2030-01-05.parts.csv").write_text("another table\n")
    assert tidy.newest("ops", "threads", directory=tmp_path) == (second, [row])
    assert tidy.newest("inference", directory=tmp_path) == (third, [other])
    assert tidy.newest("ops", directory=tmp_path) == (gpu, [at_gpu])
    assert tidy.newest("ops", case="a", directory=tmp_path) == (second, [row])
    with pytest.raises(FileNotFoundError, match="numerics"):
        tidy.newest("numerics", directory=tmp_path)


def test_of_two_machines_of_a_day_always_the_same_is_taken(tmp_path):
    for machine in ("B", "A"):
        row = Row.of(replace(CLEAN, machine=machine), "ops", "a", "timm", ms=1.0)
        tidy.keep([row], "2030-01-01", tmp_path)
    assert tidy.newest("ops", directory=tmp_path)[1][0].machine == "B"


def test_a_write_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    tidy.write(path, ROWS[:1])

    def cut(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(tidy.os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        tidy.write(path, ROWS)
    assert tidy.read(path) == ROWS[:1]


def test_a_cell_is_one_line(tmp_path):
    """Whatever stands in an error's message: line ends of any kind, separators, thousands of characters."""
    note = 'a\r\nb\x0b\x0c\x1c\x85\u2028"c", d\0' + "e" * 20_000
    row = tidy.Row.of(tidy.Origin("m", "2"), "part", "case", "ours", ms=1.0, note=note)
    tidy.write(tmp_path / "a.csv", [row, row])
    tidy.append(tmp_path / "a.csv", row)
    found = tidy.read(tmp_path / "a.csv")
    assert len(found) == 3 and all(each.note.startswith('a b "c", d e') for each in found)
    assert len(found[0].note) == tidy.LONGEST
