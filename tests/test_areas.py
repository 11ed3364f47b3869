"""The map of the suite holds every test, and what `make test` leaves out exists."""

import re

import pytest

from tests import areas, imports, thorough


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


def test_outcomes_are_read_by_area(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.ops.test_x" time="1.5"/>'
        '<testcase classname="tests.test_layouts" time="2"/>'
        '<testcase classname="tests.train.test_y.TestZ" time="3"><failure/></testcase></testsuite></testsuites>'
    )
    assert areas.outcomes(report) == {"ops": (3.5, True), "train": (3.0, False)}
    report.write_text('<testsuites><testcase classname="tests.new.test_x" time="1"/></testsuites>')
    with pytest.raises(ValueError, match="tests/new/test_x belongs to no area"):
        areas.outcomes(report)


def test_thorough_patterns_name_tests_that_exist():
    for pattern in thorough.PATTERNS:
        file, _, name = pattern.partition("::")
        text = (areas.ROOT / file).read_text() + (areas.ROOT / "tests" / "whole_models.py").read_text()
        function = re.match(r"\w*", name)[0]
        assert function == "" or f"def {function}" in text, pattern
    assert thorough.matching("tests/ecosystem/test_graphs.py::test_onnx[v1]")
    assert not thorough.matching("tests/ecosystem/test_graphs.py::test_onnx[ours]")
