"""What the report programs share: rows on disk as they come, `--save` from a clean tree, plots that know their rows."""

from dataclasses import replace

import pytest

from benchmarks.reports import (
    accelerate_report,
    cpu_report,
    fcmae_report,
    machine,
    numerics_report,
    photos,
    program,
    tidy,
)
from benchmarks.reports.program import Plot, Run
from benchmarks.reports.tidy import Origin
from convnextv2_fast.bench.timing import Timing

CLEAN = Origin("CPU, 2 threads", "2.13.0", "", "a" * 40, False)
PROGRAMS = (accelerate_report, cpu_report, fcmae_report, numerics_report, photos)


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(machine, "origin", lambda **_: CLEAN)


def begun(tmp_path, *arguments):
    parser = program.options("a-report", "A report.")
    return program.begin(parser, parser.parse_args(["--out", str(tmp_path / "out"), *arguments]))


def page(rows):
    return f"{program.told(rows)}\n" + "".join(f"{row.case} {row.ms}\n" for row in rows)


def test_rows_are_on_disk_as_they_come(tmp_path, clean):
    run = begun(tmp_path)
    assert tidy.read(run.path) == []
    rows = [run.add("ops", name, "timm", ms=1.0) for name in ("a", "b")]
    assert tidy.read(run.path) == rows and run.path.parent == tmp_path / "out"
    run.finish(page)
    (written,) = (tmp_path / "out").glob("*.md")
    assert written.read_text().startswith("CPU, 2 threads; torch 2.13.0; commit aaaaaaaaaaaa.\na 1.0\nb 1.0\n")


def test_nothing_measured_is_no_page(tmp_path, clean, capsys):
    begun(tmp_path).finish(page)
    assert "nothing was measured" in capsys.readouterr().out and not list((tmp_path / "out").glob("*.md"))


def test_rows_are_kept_with_save_only(tmp_path, clean, monkeypatch):
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    for arguments, kept in (([], []), (["--save"], ["a"])):
        run = begun(tmp_path, *arguments)
        run.add("ops", "a", "timm", ms=1.0)
        run.finish(page)
        found = [row.case for path in (tmp_path / "results").glob("*.csv") for row in tidy.read(path)]
        assert found == kept and not list((tmp_path / "results").glob("*.md"))


@pytest.mark.parametrize("report", PROGRAMS, ids=lambda report: report.__name__.rpartition(".")[2])
@pytest.mark.parametrize("dirty", [True, None])
def test_save_needs_a_clean_tree_before_anything_is_measured(tmp_path, monkeypatch, capsys, report, dirty):
    monkeypatch.setattr(machine, "origin", lambda **_: replace(CLEAN, dirty=dirty))
    with pytest.raises(SystemExit):
        report.main(["--save", "--out", str(tmp_path / "out")])
    assert "--save needs a clean tree" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("report", "options"),
    [
        (cpu_report, ["--quick"]),
        (fcmae_report, ["--quick"]),
        (accelerate_report, ["--quick"]),
        (numerics_report, ["--models", "atto"]),
    ],
)
def test_save_keeps_whole_runs_only(tmp_path, clean, capsys, report, options):
    with pytest.raises(SystemExit):
        report.main(["--save", "--out", str(tmp_path / "out"), *options])
    assert f"leave {options[0]} out" in capsys.readouterr().err


def test_columns_of_time(monkeypatch):
    monkeypatch.setattr(machine, "version", lambda package: {"timm": "1.0"}[package])
    found = program.timed(Timing([0.001, 0.002, 0.003]), "timm", kept_patches=19)
    assert {name: found[name] for name in ("ms", "p20", "p80")} == {"ms": 2.0, "p20": 1.4, "p80": 2.6}
    assert found["note"] == "rounds=3; best_ms=1; kept_patches=19; timm=1.0"
    assert program.timed(Timing([0.001]), "upstream")["note"] == "rounds=1; best_ms=1"


def test_a_plot_knows_the_rows_it_was_made_of(tmp_path, clean):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    plot = Plot("some", ("ops",), lambda rows: Figure() if len(rows) > 1 else None)
    run = begun(tmp_path)
    rows = [run.add(part, name, "timm", ms=1.0) for part, name in (("ops", "a"), ("ops", "b"), ("other", "c"))]
    assert not plot.current(run.path, rows) and plot.draw(run.path, rows[:1]) == []
    (path,) = plot.draw(run.path, rows)
    assert path.name == f"{run.path.stem}-some.png" and path.read_bytes().startswith(b"\x89PNG")
    assert plot.current(run.path, rows[:2]), "rows of other parts do not count"
    assert not plot.current(run.path, [rows[0], replace(rows[1], ms=2.0)])


def test_rows_of_two_runs_are_not_told_as_one():
    rows = [tidy.Row.of(replace(CLEAN, commit=commit), "ops", "a", "timm", ms=1.0) for commit in ("a", "b")]
    with pytest.raises(ValueError, match="too many values"):
        program.told(rows)
    assert program.told([replace(rows[0], dirty=True)]).endswith("commit a with uncommitted changes.")


def test_a_run_is_of_today(tmp_path, clean):
    run = begun(tmp_path)
    assert isinstance(run, Run) and run.path == tidy.file_for(CLEAN, run.date, tmp_path / "out")
