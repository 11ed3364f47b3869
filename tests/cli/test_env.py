"""`env`: what it tells, and what it must not tell."""

import json
import platform
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch, library
from convnextv2_fast.cli import env
from convnextv2_fast.cli.text import without_paths


def test_json(cli, monkeypatch):
    monkeypatch.setenv("CONVNEXTV2_FAST_BACKEND", "torch")
    monkeypatch.setenv("CONVNEXTV2_FAST_NOTE", "from /home/someone/notes.txt")
    code, out, err = cli("env", "--json")
    found = json.loads(out)
    assert code == 0 and not err
    assert found["versions"]["convnextv2_fast"] == cf.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["cpu_isa_of_convnextv2_fast"] == library.cpu_isa()
    assert {name: state["reasons"] for name, state in found["backends"].items()} == without_paths(dispatch.backends())
    assert all(state["available"] == (not state["reasons"]) for state in found["backends"].values())
    assert found["environment"] == {
        "CONVNEXTV2_FAST_BACKEND": "torch",
        "CONVNEXTV2_FAST_NOTE": "from notes.txt",
    }


def test_a_misspelt_variable_is_said(cli, monkeypatch):
    monkeypatch.setenv("CONVNEXTV2_FAST_BACKENDS", "torch")
    monkeypatch.setenv("CONVNEXTV2_FAST_PREPACK", "1")
    _, out, _ = cli("env")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  CONVNEXTV2_FAST_")}
    assert lines["CONVNEXTV2_FAST_BACKENDS"].endswith("torch  (there is no such variable)")
    assert lines["CONVNEXTV2_FAST_PREPACK"].endswith(" 1")


def test_text_says_the_same(cli, monkeypatch):
    monkeypatch.delenv("CONVNEXTV2_FAST_BACKEND", raising=False)
    code, out, _ = cli("env")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert code == 0
    for name, reasons in dispatch.backends().items():
        assert ("not available: " + "; ".join(without_paths(reasons)) if reasons else "available") in lines[name]
    assert torch.__version__ in lines["torch"] or "available" in lines["torch"]
    columns = {len(line) - len(line[2:].partition("  ")[2].lstrip()) for line in lines.values()}
    assert len(columns) == 1, "values are aligned"


def test_no_host_name_and_no_paths(cli, monkeypatch):
    def secret(*_):
        raise AssertionError("asked for the host name")

    monkeypatch.setattr(socket, "gethostname", secret)
    monkeypatch.setattr(platform, "node", secret)
    monkeypatch.setattr(library, "build_info", lambda: {"compiler": "/opt/secret/bin/g++ 12", "archs": ["80", "90"]})
    monkeypatch.setattr(dispatch, "backends", lambda: {"cpu": [f"{sys.prefix}/x.so does not load"]})
    for argv in ((), ("--json",)):
        code, out, _ = cli("env", *argv)
        assert code == 0 and "secret" not in out and sys.prefix not in out
        assert "g++ 12" in out and "x.so does not load" in out


def test_gpus(cli, monkeypatch):
    """What torch says of two GPUs, one made up: the report of a machine that this one may not be."""
    gpu = SimpleNamespace(name="NVIDIA X", major=9, minor=0, total_memory=80 * 2**30, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpu)
    monkeypatch.setattr(env, "_driver", lambda: None)
    code, out, _ = cli("env")
    assert code == 0 and "NVIDIA X, compute capability 9.0, 80.0 GiB, 132 multiprocessors" in out
    assert "gpu 1" in out and "gpu driver" in out and "unknown" in out


def test_driver(monkeypatch):
    monkeypatch.setattr(env.shutil, "which", lambda name: None)
    assert env._driver() is None
    monkeypatch.setattr(env.shutil, "which", lambda name: "nvidia-smi")
    monkeypatch.setattr(env.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="570.86.15\n570.86.15\n"))
    assert env._driver() == "570.86.15"

    def fails(*a, **k):
        raise OSError

    monkeypatch.setattr(env.subprocess, "run", fails)
    assert env._driver() is None


def test_package_version():
    assert env.package_version("no-such-package-anywhere") is None
    assert env.package_version("no-such-package-anywhere", "torch") == torch.__version__


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/usr/bin/c++ -O3", "c++ -O3"),
        ("cannot open '/a/b/c.so': no file", "cannot open 'c.so': no file"),
        ("in /usr/lib/", "in lib"),
        (r"C:\tools\cl.exe", "cl.exe"),
        ("images/s, CPU / GPU, https://example.org/a/b", "images/s, CPU / GPU, https://example.org/a/b"),
        ({"a": ["/x/y"], "b": 3}, {"a": ["y"], "b": 3}),
    ],
)
def test_without_paths(text, want):
    assert without_paths(text) == want
