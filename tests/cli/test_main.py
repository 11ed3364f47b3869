"""The command line as a whole: help, version, and errors of one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.cli import env

COMMANDS = ("env", "check", "explain", "bench", "convert", "pretrain", "finetune", "predict", "reconstruct", "curve")


def test_as_a_module():
    """The only way in that a user has; one subprocess, since importing torch takes seconds."""
    done = subprocess.run([sys.executable, "-m", "convnextv2_fast", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"convnextv2_fast {cf.__version__}\n"), done.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(cli, command):
    code, out, _ = cli(*command.split(), "--help")
    assert code == 0 and out.startswith(f"usage: python -m convnextv2_fast {command}".strip())
    if not command:
        assert all(f"    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("argv", [(), ("benhc",)])
def test_unknown_command(cli, argv):
    code, out, err = cli(*argv)
    assert code == 2 and not out and err.startswith("usage: python -m convnextv2_fast") and "COMMAND" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("explain", "conv"), "unknown op 'conv': the ops are "),
        (("explain", "grn", "--dtype", "int8"), "argument --dtype: invalid choice: 'int8'"),
        (("explain", "grn", "--device", "toaster"), "must be a device such as cpu, cuda or cuda:0, got 'toaster'"),
        (("explain", "grn", "--shape", "1", "2", "3"), "argument --shape: expected 4 arguments"),
        (("explain", "grn", "--shape", "1", "2", "3", "0"), "must be a whole number of at least 1, got '0'"),
        (("check", "--op", "conv"), "argument --op: invalid choice: 'conv'"),
        (("check", "--device", "cuda:77"), "device 'cuda:77': torch "),
        (("check", "--device", "cpu:1"), "device 'cpu:1': torch has one CPU device; say cpu"),
        (("check", "--device", "meta"), "device 'meta': only cpu and cuda devices"),
        (("bench", "--model", "giant"), "argument --model: invalid choice: 'giant'"),
        (("bench", "--batch", "-1"), "must be a whole number of at least 1, got '-1'"),
        (("bench", "--rounds", "2.5"), "must be a whole number of at least 1, got '2.5'"),
        (("bench", "--model", "atto", "--size", "16"), "H and W must be at least 32"),
        (("bench", "--model", "fcmae-atto", "--size", "80"), "multiples of the patch size 32, got 80x80"),
        (("bench", "--model", "fcmae-atto", "--peer", "timm"), "timm has no FCMAE"),
        (("bench", "--peer", "openvino", "--mode", "train"), "openvino: it is measured in inference on a CPU"),
        (("bench", "--peer", "onnxruntime", "--dtype", "bfloat16"), "it computes in float32 on a CPU, not in bfloat16"),
        (("bench", "--peer", "tensorrt"), "invalid choice: 'tensorrt'"),
        (("bench", "--json", "no/such/folder/x.json"), "there is no such folder"),
        (("bench", "--plot", "x.bmp"), "the name must end in .png"),
    ],
)
def test_bad_values_give_one_line(cli, argv, message):
    one_line(cli, argv, message)


def test_a_backend_that_an_op_has_not(cli, monkeypatch):
    monkeypatch.setitem(dispatch._registry, "grn", (dispatch.implementations("grn")[-1],))
    one_line(cli, ("check", "--backend", "cpu", "--op", "grn"), "no cpu implementation of grn exists yet")


def one_line(cli, argv, message):
    code, out, err = cli(*argv)
    assert code == 2 and not out and message in err and err.count("\n") == 1
    assert err.startswith(f"python -m convnextv2_fast {argv[0]}: error: ")


@pytest.mark.parametrize("command", ["check", "explain", "bench"])
def test_a_bad_environment_variable_is_reported_by_all_but_env(cli, monkeypatch, command):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "gpu")
    code, _, err = cli(command)
    assert code == 2 and "CONVNEXTV2_FAST_BACKEND must be one of auto, cuda, " in err
    code, out, _ = cli("env")
    assert code == 0 and "CONVNEXTV2_FAST_BACKEND" in out


def test_a_reader_that_goes_away():
    """As in `check | head -1`: no traceback."""
    code = "import sys, convnextv2_fast.cli as c; sys.exit(c.main(['explain', 'grn']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


STARTS = {
    "module": ["-m", "convnextv2_fast", "env"],
    "options before it": ["-W", "ignore", "-m", "convnextv2_fast", "env"],
    "script": ["convnextv2-fast", "env"],
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("package", ["torch", "convnextv2_fast/cli"])
def test_interrupt_while_importing(start, package, tmp_path):
    """A package that sends the signal stands for the person who loses patience while that package is imported."""
    sources = Path(cf.__file__).parent
    shutil.copytree(sources, tmp_path / "convnextv2_fast", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / package).mkdir(exist_ok=True)
    impatient = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / package / "__init__.py").write_text(impatient)
    script = "import sys\nfrom convnextv2_fast.__main__ import main\nsys.exit(main())\n"
    (tmp_path / "convnextv2-fast").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CONVNEXTV2_FAST_QUIET": "1"}
    command = [sys.executable, *start]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "python -m convnextv2_fast: interrupted\n")


def test_other_programs_keep_their_handler():
    """Importing the library, or running another module that does, changes no signal."""
    code = "import signal, convnextv2_fast; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_interrupt(cli, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "collect", interrupted)
    assert cli("env") == (130, "", "python -m convnextv2_fast env: interrupted\n")
