"""The report on disk: whole after every row, whatever happens, and taken up again."""

import json
import os

import pytest

from benchmarks._report import Report, write_atomically

HEADER = {"date": "2030-01-01", "commit": "abc", "gpu": {"name": "G"}, "torch": "2.13", "dry_run": False}


def read(directory):
    return json.loads((directory / "report.json").read_text())


def test_every_row_is_on_disk_at_once(tmp_path):
    report = Report(tmp_path, HEADER)
    assert read(tmp_path)["rows"] == [] and read(tmp_path)["header"] == HEADER
    report.add(section="ours", name="grn", provider="fast-torch", status="ok", ms=1.5, roofline_share=0.25)
    assert [row["name"] for row in read(tmp_path)["rows"]] == ["grn"]
    text = (tmp_path / "report.md").read_text()
    assert "| grn | fast-torch | 1.5 | 25.0 % | ok |" in text and "- commit: abc" in text
    report.add(section="ours", name="mlp", status="failed", reason="a | b\nc")
    assert "failed: a \\| b c" in (tmp_path / "report.md").read_text()


def test_a_row_of_the_same_key_is_replaced(tmp_path):
    report = Report(tmp_path, HEADER)
    for status in ("failed", "ok"):
        report.add(section="peers", name="a", provider="timm", status=status)
    report.add(section="ours", name="a", provider="timm", status="ok")
    assert [(row["section"], row["status"]) for row in read(tmp_path)["rows"]] == [("peers", "ok"), ("ours", "ok")]


def test_a_write_cut_short_leaves_the_old_report(tmp_path, monkeypatch):
    report = Report(tmp_path, HEADER)
    report.add(section="ours", name="first", status="ok")

    def cut(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        report.add(section="ours", name="second", status="ok")
    assert [row["name"] for row in read(tmp_path)["rows"]] == ["first"]


def test_write_atomically_never_shows_half_a_file(tmp_path, monkeypatch):
    path, seen = tmp_path / "f", []
    write_atomically(path, "old")
    replace = os.replace

    def spy(source, target):
        seen.append(path.read_text())
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_atomically(path, "new")
    assert seen == ["old"] and path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_resume_keeps_what_is_finished_and_repeats_the_rest(tmp_path):
    report = Report(tmp_path, HEADER)
    report.add(section="ours", name="a", provider="fast-torch", status="ok", ms=1.0)
    report.add(section="ours", name="b", status="failed", reason="crash")
    report.add(section="peers", name="c", status="skipped", reason="time")
    again = Report(tmp_path, HEADER | {"date": "2030-01-02"}, resume=True)
    assert again.done("ours") == ["a / fast-torch"] and again.done("peers") == []
    assert [row["name"] for row in read(tmp_path)["rows"]] == ["a"]
    assert Report(tmp_path, HEADER).rows == [], "without resume it starts anew"


@pytest.mark.parametrize("change", [{"commit": "def"}, {"gpu": {"name": "H"}}, {"torch": "2.14"}, {"dry_run": True}])
def test_resume_refuses_another_machine_or_commit(tmp_path, change):
    Report(tmp_path, HEADER).add(section="ours", name="a", status="ok")
    with pytest.raises(ValueError, match="cannot resume"):
        Report(tmp_path, HEADER | change, resume=True)
