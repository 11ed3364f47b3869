"""The map of the suite holds every test, and what `make test` leaves out exists."""

import re
import subprocess
from itertools import product
from types import SimpleNamespace

import pytest

from tests import areas, imports, pairs, run_areas, thorough


def test_every_test_file_is_in_one_area():
    for path in areas.files(["tests"]):
        name = path.relative_to(areas.ROOT).as_posix()
        if path.name.startswith("test_") and path.suffix == ".py":
            holders = [a.name for a in areas.AREAS for t in a.tests if name == t or name.startswith(f"{t}/")]
            assert len(holders) == 1, f"{name}: {holders}"


def test_sources_exist():
    for area in areas.AREAS:
        for place in (*area.tests, *area.sources):
            assert areas.files([place]), f"{area.name}: {place}"


def test_a_change_of_a_source_makes_an_area_stale(monkeypatch):
    area = areas.BY_NAME["checkpoints"]
    before, listed = areas.digest(area), areas.files
    assert before == areas.digest(area)
    monkeypatch.setattr(areas, "files", lambda places: listed(places)[1:])
    assert areas.digest(area) != before


def test_what_tests_import_belongs_to_them():
    found = imports.followed(areas.files(areas.BY_NAME["triton"].tests))
    names = {path.relative_to(areas.ROOT).as_posix() for path in found}
    assert {"tests/pairs.py", "tests/ops/test_all_ops.py", "tests/ops/__init__.py", "tests/__init__.py"} <= names
    assert not [name for name in names if name.startswith("src/")]


def test_what_every_test_is_given_belongs_to_every_area():
    for area in areas.AREAS:
        assert {areas.ROOT / "tests" / name for name in ("conftest.py", "thorough.py")} <= areas.judged(area), area.name


def test_modules_of_the_library_are_found_in_every_form_of_import(tmp_path):
    file = areas.ROOT / "tests" / "not_there.py"
    text = "import convnextv2_fast.ops._mlp_grn\nfrom convnextv2_fast import testing, accelerate\n"
    text += "def f():\n    from convnextv2_fast.models.convnextv2 import Block\n"

    class Pretended:
        def relative_to(self, root):
            return file.relative_to(root)

        def read_text(self):
            return text

    names = {
        path.relative_to(imports.SOURCES / "convnextv2_fast").as_posix() for path in imports.of_the_library(Pretended())
    }
    assert names == {"ops", "ops/_mlp_grn", "testing.py", "models", "models/convnextv2.py"}


@pytest.mark.parametrize("area", areas.AREAS, ids=lambda area: area.name)
def test_what_tests_import_of_the_library_is_among_the_sources(area):
    judged = areas.judged(area)
    for file in imports.followed(areas.files(area.tests)):
        for module in imports.of_the_library(file):
            missing = {p.relative_to(areas.ROOT).as_posix() for p in set(areas.files([str(module)])) - judged}
            assert not missing, f"{file.relative_to(areas.ROOT)} imports {module.name}: add it to the area's sources"


def test_outcomes_are_read_by_area(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.ops.test_x" time="1.5"/>'
        '<testcase classname="tests.test_layouts" time="2"/>'
        '<testcase classname="tests.ops.test_x" time="0"><skipped/></testcase>'
        '<testcase classname="" name="tests.native.test_x" time="0"><error/></testcase>'
        '<testcase classname="" name="tests.cli.test_x" time="0"><skipped/></testcase>'
        '<testcase classname="tests.train.test_y.TestZ" time="3"><failure/></testcase></testsuite></testsuites>'
    )
    assert run_areas.outcomes(report) == {
        "ops": run_areas.Outcome(3.5, passed=2),
        "native": run_areas.Outcome(failed=1),
        "command-line": run_areas.Outcome(),
        "train": run_areas.Outcome(3.0, failed=1),
    }
    report.write_text('<testsuites><testcase classname="tests.new.test_x" time="1"/></testsuites>')
    with pytest.raises(ValueError, match="tests/new/test_x belongs to no area"):
        run_areas.outcomes(report)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of what passed."""
    path = tmp_path / "areas.tsv"
    path.write_text("area\tpassed as\tseconds\ttests\nops\told\t3\t1\ntrain\told\t5\t1\n")
    monkeypatch.setattr(run_areas, "TABLE", path)
    return path


def test_an_area_with_many_skipped_tests_is_not_recorded(table, capsys):
    run_areas.record({"ops": "a"}, {"ops": run_areas.Outcome(1.0, passed=100)}, fewer=False)
    assert table.read_text() == "area\tpassed as\tseconds\ttests\nops\ta\t1\t100\ntrain\told\t5\t1\n"
    assert run_areas.read()["train"] == run_areas.Passed("old", 5, 1)
    run_areas.record({"ops": "b"}, {"ops": run_areas.Outcome(1.0, passed=90)}, fewer=False)
    assert run_areas.read()["ops"] == run_areas.Passed("b", 1, 90) and not capsys.readouterr().out
    run_areas.record({"ops": "c", "docs": "c"}, {"ops": run_areas.Outcome(1.0, passed=80)}, fewer=False)
    said = capsys.readouterr().out
    assert "ops is not recorded: 80 of its tests passed, 90 when it was recorded last" in said
    assert run_areas.read()["ops"].digest == "b" and "docs is not recorded: 0 of its tests" in said
    run_areas.record({"ops": "c"}, {"ops": run_areas.Outcome(1.0, passed=80)}, fewer=True)
    assert run_areas.read()["ops"] == run_areas.Passed("c", 1, 80)
    run_areas.record({"ops": "d"}, {"ops": run_areas.Outcome(1.0, passed=80, failed=1)}, fewer=True)
    assert run_areas.read()["ops"].digest == "c"


@pytest.mark.parametrize("code, digest", [(0, "new"), (1, "new"), (2, "old"), (3, "old"), (-2, "old")])
def test_only_whole_runs_are_recorded(code, digest, table, tmp_path, monkeypatch, capsys):
    """Neither one that was cut short, nor one of which PYTEST_ADDOPTS left something out."""
    report = tmp_path / "build" / "tests.xml"

    def pretend(command, *, env, **_):
        assert "PYTEST_ADDOPTS" not in env and "PATH" in env
        failed = "<failure/>" if code else ""
        report.write_text(
            '<testsuite><testcase classname="tests.ops.test_x" time="1"/>'
            f'<testcase classname="tests.train.test_x" time="1">{failed}</testcase></testsuite>'
        )
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    monkeypatch.setattr(run_areas, "REPORT", report)
    monkeypatch.setattr(run_areas, "digest", lambda area: "new")
    monkeypatch.setattr(run_areas, "subprocess", SimpleNamespace(run=pretend))
    assert run_areas.run([areas.BY_NAME["ops"], areas.BY_NAME["train"]], (), recording=True) == code
    assert run_areas.read()["ops"].digest == digest
    assert run_areas.read()["train"].digest == ("new" if code == 0 else "old")
    assert ("nothing is recorded" in capsys.readouterr().out) == (digest == "old")


def test_a_run_with_arguments_keeps_its_environment_and_is_not_recorded(table, monkeypatch):
    def pretend(command, *, env, **_):
        assert env["PYTEST_ADDOPTS"] == "-v" and command[-1] == "-x"
        return subprocess.CompletedProcess(command, 0)

    before = table.read_text()
    monkeypatch.setenv("PYTEST_ADDOPTS", "-v")
    monkeypatch.setattr(run_areas, "REPORT", table.parent / "tests.xml")
    monkeypatch.setattr(run_areas, "subprocess", SimpleNamespace(run=pretend))
    monkeypatch.setattr(run_areas, "digest", lambda area: "new")
    assert run_areas.run([areas.BY_NAME["ops"]], ["-x"], recording=True) == 0
    assert table.read_text() == before


class Case:
    """A test with parameters, as pytest hands it to the hooks."""

    def __init__(self, name, marks, **values):
        self.nodeid, self.marks = f"tests/test_x.py::{name}[{values}]", marks
        self.callspec, self.values = SimpleNamespace(params=values), tuple(values.values())

    def get_closest_marker(self, name):
        return name if name in self.marks else None


@pytest.mark.parametrize("also", [(), ("z",)])
def test_pairs_do_not_rely_on_thorough_cases(also):
    """`-m "not thorough"` removes those afterwards."""
    items = [
        Case("test", ("thorough",) if c == "y" or a in also else (), a=a, b=b, c=c)
        for c, a, b in product("yx", ("p", "q", *also), "12")
    ]
    wanted, removed = {(i.values[0], i.values[1]) for i in items if not i.marks}, []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: removed.extend(items)))
    everything = list(items)
    pairs.select(config, items)
    assert {(i.values[0], i.values[1]) for i in items if not i.marks} == wanted
    for one, other in ((0, 1), (0, 2), (1, 2)):  # and without -m, nothing is missing
        assert {(i.values[one], i.values[other]) for i in items} == {
            (i.values[one], i.values[other]) for i in everything
        }
    assert sorted(map(id, items + removed)) == sorted(map(id, everything))


def test_thorough_patterns_name_tests_that_exist():
    for pattern in thorough.PATTERNS:
        file, _, name = pattern.partition("::")
        text = (areas.ROOT / file).read_text() + (areas.ROOT / "tests" / "whole_models.py").read_text()
        function = re.match(r"\w*", name)[0]
        assert function == "" or f"def {function}" in text, pattern
    assert thorough.matching("tests/ecosystem/test_graphs.py::test_onnx[v1]")
    assert not thorough.matching("tests/ecosystem/test_graphs.py::test_onnx[ours]")
