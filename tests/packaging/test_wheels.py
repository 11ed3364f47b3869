"""The tools that make wheels: which toolkit, which index, which commands; and one wheel from end to end."""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest

from convnextv2_fast import library
from tests.packaging import fake
from tests.packaging.test_cuda_library import check_needed_libraries, check_what_only_a_cuda_torch_has
from tools.wheels import __main__ as cli
from tools.wheels import abi, audit, build, index, toolkit, trial
from tools.wheels.process import ROOT, Failure, run

# --- the toolkit


def fake_nvcc(home: Path, release: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "nvcc").write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    (home / "bin" / "nvcc").chmod(0o755)
    return home


def test_release_of(tmp_path):
    assert toolkit.release_of(fake_nvcc(tmp_path / "a", "13.0") / "bin/nvcc") == "13.0"
    assert toolkit.release_of(tmp_path / "nothing") is None
    assert toolkit.release_of("/bin/true") is None


def test_an_installed_toolkit_of_the_release_is_used(tmp_path):
    """CUDA_HOME comes first, then PATH; another release than that asked for is passed over."""
    old, new, other = (fake_nvcc(tmp_path / n, r) for n, r in (("old", "98.6"), ("new", "99.0"), ("other", "99.0")))
    assert toolkit.find("99.0", {"CUDA_HOME": str(new), "PATH": str(other / "bin")}) == new
    assert toolkit.find("99.0", {"CUDA_HOME": str(old), "PATH": str(other / "bin")}) == other
    assert toolkit.find("98.6", {"CUDA_PATH": str(old), "PATH": ""}) == old
    assert toolkit.find("99.1", {"CUDA_HOME": str(new), "PATH": str(other / "bin")}) is None


@pytest.fixture
def pip(monkeypatch):
    """pip, which installs what this release says."""
    calls = []

    def install(*command, cwd, **_):
        calls.append([str(part) for part in command])
        home = Path(command[command.index("--target") + 1]) / "nvidia" / "cu99"
        fake_nvcc(home, install.release)
        (home / "lib").mkdir()
        (home / "lib" / "libcudart.so.99").write_text("")

    install.release = "99.2"
    install.calls = calls
    monkeypatch.setattr(toolkit, "run", install)
    return install


def test_another_toolkit_is_installed_once(tmp_path, pip):
    home, origin = toolkit.provide("99.2", tmp_path)
    assert (home, origin) == (tmp_path / "99.2/nvidia/cu99", "PyPI")
    assert pip.calls[0][-1] == "cuda-toolkit[nvcc,cudart,cccl]==99.2.*"
    assert (home / "lib/libcudart.so").exists()
    toolkit.provide("99.2", tmp_path)
    assert len(pip.calls) == 1


def test_toolkits_that_cannot_be_had(tmp_path, pip):
    pip.release = "99.3"
    with pytest.raises(Failure, match=r"CUDA 99\.2: pip installed nvcc 99\.3"):
        toolkit.provide("99.2", tmp_path)
    with pytest.raises(Failure, match=r"CUDA 12\.0: .* PyPI has none before CUDA 13"):
        toolkit.install("12.0", tmp_path)
    with pytest.raises(Failure, match=r"CUDA 13: write a release as in 13\.0"):
        toolkit.provide("13", tmp_path)


# --- what setup.py is told


def test_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "provide", lambda release, folder: (folder / release, "PyPI"))
    assert build.settings("any", tmp_path)[0] == {"CONVNEXTV2_FAST_CPU": "0", "CONVNEXTV2_FAST_CUDA": "0"}
    assert build.settings("cpu", tmp_path)[0]["CONVNEXTV2_FAST_LOCAL_VERSION"] == "cpu"
    environment, remark = build.settings("13.2", tmp_path)
    assert environment["CUDA_HOME"] == str(tmp_path / "cuda/13.2") and remark == "nvcc 13.2, PyPI"
    assert environment["CONVNEXTV2_FAST_CUDA"] == "1" and environment["CONVNEXTV2_FAST_LOCAL_VERSION"] == "cu132"
    assert environment.pop("TORCH_CUDA_ARCH_LIST", "all") == "all"  # whatever GPU the building machine has
    assert set(environment) <= set(build.DECIDED_HERE)


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "  running build\n  a.cuh(34): error: expected an expression\n  b.cu: error: more",
            "a.cuh(34): error: expected",
        ),
        ("  x.h:1:10: fatal error: y.h: No such file\n  error: subprocess-exited-with-error", "x.h:1:10: fatal error:"),
        (
            "  CMake Error at a.cmake:3 (message):\n    TORCH_CUDA_ARCH_LIST: '8' is none\n",
            "(message): TORCH_CUDA_ARCH",
        ),
        (
            "  CONVNEXTV2_FAST_CUDA=1, but the build needs: nvcc\n  error: subprocess-exited",
            "but the build needs: nvcc",
        ),
        ("something\nlast", "last"),
        ("", "nothing was printed"),
    ],
)
def test_the_compiler_has_the_first_word(printed, told):
    assert told in build.first_error(printed)


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_elsewhere_it_is_pure_python(system):
    """setup.py says why, and asks for no compiler."""
    code = (
        f"import platform, runpy, sys; platform.system = lambda: {system!r}; sys.argv = ['setup.py', 'build_ext'];"
        "import setuptools; setuptools.setup = lambda **k: print('extensions', k['ext_modules']);"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    environment = {name: "auto" for name in ("CONVNEXTV2_FAST_CPU", "CONVNEXTV2_FAST_CUDA")}
    done = run(sys.executable, "-c", code, cwd=ROOT, **environment)
    assert done.stdout == "extensions []\n"
    assert "NO NATIVE KERNELS: they need Linux (" in done.stderr


# --- the index


class Links(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[dict[str, str]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.links.append(dict(attributes))


@pytest.fixture
def dist(tmp_path) -> Path:
    folder = tmp_path / "dist"
    for local in ("", "cpu", "cu130"):
        (tmp_path / "library").write_text("none")
        names = audit.LIBRARIES["cu" if local == "cu130" else local]
        fake.wheel(folder, local, libraries=dict.fromkeys(names, tmp_path / "library"))
    text = f"Metadata-Version: 2.4\nName: convnextv2_fast\nVersion: {fake.VERSION}\nRequires-Python: >=3.10\n".encode()
    with tarfile.open(folder / f"convnextv2_fast-{fake.VERSION}.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"convnextv2_fast-{fake.VERSION}/PKG-INFO")
        member.size = len(text)
        archive.addfile(member, BytesIO(text))
    return folder


def test_index(dist, tmp_path):
    out = tmp_path / "index"
    assert index.write_index(dist, out) == ["cpu", "cu130", "simple"]
    assert [link["href"] for link in Links(out / "simple/index.html").links] == ["convnextv2-fast/"]
    seen = {}
    for channel in ("cpu", "cu130", "simple"):
        for link in Links(out / channel / "convnextv2-fast/index.html").links:
            target, _, digest = link["href"].partition("#sha256=")
            assert "+" not in target  # some servers read it as a space
            file = (out / channel / "convnextv2-fast" / target.replace("%2B", "+")).resolve()
            assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
            assert link["data-requires-python"] == ">=3.10"
            seen.setdefault(channel, []).append(file.name)
    version = re.escape(fake.VERSION)
    assert re.fullmatch(
        rf"convnextv2_fast-{version}-py3-none-any\.whl convnextv2_fast-{version}\.tar\.gz", " ".join(seen["simple"])
    )
    assert [name.split("-")[1] for name in seen["cpu"] + seen["cu130"]] == [
        f"{fake.VERSION}+cpu",
        f"{fake.VERSION}+cu130",
    ]


def test_index_is_deterministic_and_careful(dist, tmp_path):
    def read(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    index.write_index(dist, tmp_path / "a")
    index.write_index(dist, tmp_path / "b")
    assert read(tmp_path / "a") == read(tmp_path / "b")
    (dist / f"convnextv2_fast-{fake.VERSION}.tar.gz").unlink()
    index.write_index(dist, tmp_path / "a")
    assert not list((tmp_path / "a/files").glob("*.tar.gz"))
    with pytest.raises(Failure, match="holds something else than an index"):
        index.write_index(dist, ROOT / "docs")
    with pytest.raises(Failure, match="neither wheels nor an sdist"):
        index.write_index(tmp_path / "a/simple", tmp_path / "c")


def test_names_are_normalised():
    assert index.normalise("convnextv2_fast") == index.normalise("ConvNeXtV2.-_Fast") == "convnextv2-fast"


@pytest.mark.packaging
@pytest.mark.parametrize(("channel", "local"), [("simple", ""), ("cu130", "+cu130")])
def test_pip_installs_from_the_index(dist, tmp_path, channel, local):
    """It finds the page, checks the digest and takes the channel's version."""
    if local and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the wheels made here are for Linux on x86-64")
    index.write_index(dist, tmp_path / "index")
    address = (tmp_path / "index" / channel).as_uri()
    command = ("install", "--no-deps", "--no-cache-dir", "--index-url", address, "--target", tmp_path / "site")
    run(
        *(sys.executable, "-m", "pip", *command, "convnextv2_fast"),
        cwd=tmp_path,
        PIP_CONFIG_FILE=os.devnull,
        drop=("PIP_FIND_LINKS",),
    )
    assert (tmp_path / "site" / f"convnextv2_fast-{fake.VERSION}{local}.dist-info").is_dir()


def test_pip_refuses_a_file_that_changed(dist, tmp_path):
    index.write_index(dist, tmp_path / "index")
    (wheel,) = (tmp_path / "index/files").glob("*-any.whl")
    wheel.write_bytes(wheel.read_bytes() + b" ")
    address = (tmp_path / "index/simple").as_uri()
    command = ("install", "--no-deps", "--no-cache-dir", "--index-url", address, "--target", tmp_path / "site")
    done = run(
        *(sys.executable, "-m", "pip", *command, "--only-binary=:all:", "convnextv2_fast"),
        cwd=tmp_path,
        check=False,
        PIP_CONFIG_FILE=os.devnull,
        drop=("PIP_FIND_LINKS",),
    )
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


# --- trials


def test_registered_operators_are_read_from_the_sources():
    assert {"dwconv_layer_norm_fwd", "dwconv_layer_norm_fwd_train"} <= set(trial.registered("cpu"))
    assert trial.registered("cuda")
    sources = "".join(path.read_text() for path in (ROOT / "csrc/torch").glob("*_cuda.cpp"))
    assert len(trial.registered("cuda")) == len(set(re.findall(r'm\.impl\(\s*"(\w+)"', sources)))


def test_this_installation():
    """What a trial asks for holds for the libraries installed here, whichever they are."""
    names = [name for name in ("cpu", "cuda") if (Path(library.__file__).parent / f"_C_{name}.so").exists()]
    said = run(sys.executable, "-c", trial.INSIDE.read_text(), trial.expectations(tuple(names), False), cwd=ROOT).stdout
    assert "ops right" in said


def test_a_package_from_elsewhere_is_noticed(tmp_path):
    expected = trial.expectations((), True)
    here = {"PYTHONPATH": str(ROOT / "src")}
    done = run(sys.executable, "-c", trial.INSIDE.read_text(), expected, cwd=ROOT, check=False, **here)
    assert done.returncode != 0 and "which is not of this environment" in done.stderr
    folder = trial.copy_tests(tmp_path / "tests")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_errors.py")
    done = run(*command, cwd=folder, check=False, **here)
    assert done.returncode != 0 and "AssertionError" in done.stdout + done.stderr


def test_an_operator_that_is_not_registered_is_noticed(monkeypatch):
    if library.why_not("cpu"):
        pytest.skip(library.why_not("cpu"))
    names = [name for name in ("cpu", "cuda") if (Path(library.__file__).parent / f"_C_{name}.so").exists()]
    only_cuda = sorted({*trial.registered("cuda")} - {*trial.registered("cpu")})[:1]
    for lost in ["lost", *only_cuda]:
        message = "no schema declares lost" if lost == "lost" else f"_C_cpu.so does not register {lost}"
        monkeypatch.setattr(trial, "registered", lambda name, lost=lost: ["dwconv_layer_norm_fwd", lost])
        expected = trial.expectations(tuple(names), False)
        done = run(sys.executable, "-c", trial.INSIDE.read_text(), expected, cwd=ROOT, check=False)
        assert message in done.stderr


def test_which_wheel_check_abi_takes(tmp_path):
    with pytest.raises(Failure, match="no wheel with a library"):
        abi.choose(tmp_path)
    for i, name in enumerate(
        ("0.1.0-py3-none-any", "0.1.0+cu130-py3-none-linux_x86_64", "0.1.0+cpu-py3-none-linux_x86_64")
    ):
        (tmp_path / f"convnextv2_fast-{name}.whl").write_text("")
        os.utime(tmp_path / f"convnextv2_fast-{name}.whl", (i, i))
    assert "+cu130" in abi.choose(tmp_path).name


def test_environments_want_room(tmp_path, monkeypatch):
    monkeypatch.setattr(abi, "FREE", 10**18)
    with pytest.raises(Failure, match=r"torch 2\.10\.0: \d+ GB free"):
        abi.environment("2.10.0", tmp_path)


# --- make and the workflows


def dry_run(*arguments: str) -> str:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def commands(text: str) -> list[list[str]]:
    """The arguments of every `python -m tools.wheels` in a script."""
    return [shlex.split(line)[1:] for line in re.findall(r"-m (tools\.wheels .*)", text)]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["wheels"], {"targets": ["any", "cpu", "13.0", "13.2"], "platform": ""}),
        (["wheels", "CUDA_VERSIONS=12.8"], {"targets": ["any", "cpu", "12.8"]}),
        (["wheels", "WHEELS=cpu", "WHEEL_PLATFORM=a_b"], {"targets": ["cpu"], "platform": "a_b"}),
        (["wheels", "ARGS=--no-trial"], {"no_trial": True}),
        (["check-abi"], {"torch": ["2.10.0", "newest"], "wheel": None, "remove": False}),
        (["check-abi", "TORCH_VERSIONS=2.11.0", "WHEEL=a b.whl"], {"torch": ["2.11.0"], "wheel": Path("a b.whl")}),
        (["check-abi", "ARGS=--remove"], {"remove": True}),
        (["wheel-index", "INDEX=out"], {"folder": Path("dist"), "out": Path("out")}),
    ],
)
def test_make_targets_give_commands_that_exist(arguments, expected):
    (command,) = commands(dry_run(*arguments))
    parsed = vars(cli.parse(command))
    assert {name: parsed[name] for name in expected} == expected


def test_make_help_names_the_targets():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in said for target in ("wheels", "check-abi", "wheel-index"))


def steps(name: str) -> list[str]:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_ci_workflow():
    assert steps("ci.yml") == [".ci/run"] and os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_wheels_workflow_calls_make():
    """Every make line runs (dry) with the variables of the matrix filled in, and gives a command that parses."""
    lines = [re.sub(r"\$\{\{ matrix\.(\w+) \}\}", r"\1", line) for line in steps("wheels.yml")]
    made = [shlex.split(line)[1:] for line in lines if line.startswith("make ")]
    assert {line[0] for line in made} == {"wheels", "check-abi", "wheel-index"}
    for line in made:
        (command,) = commands(dry_run(*line))
        cli.parse(command)


def test_wheels_workflow_is_complete():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows/wheels.yml").read_text())
    jobs = workflow["jobs"]
    rows = jobs["native"]["strategy"]["matrix"]["include"]
    assert {(row["machine"], row["target"]) for row in rows} == {
        (machine, target) for machine in ("x86_64", "aarch64") for target in ("cpu", "12.6", "12.8", "13.0")
    }
    for row in rows:
        assert row["image"].endswith(f":cuda{row['target']}" if row["target"] != "cpu" else row["machine"])
        assert ("aarch64" in row["image"]) == (row["machine"] == "aarch64")
    oldest = re.search(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert jobs["pythons"]["strategy"]["matrix"]["python"][0] == oldest
    for job in jobs.values():
        assert set([job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])) <= set(jobs)


# --- from end to end


@pytest.mark.packaging
@pytest.mark.slow
def test_a_wheel_from_end_to_end(tmp_path, monkeypatch):
    """sdist, wheel with one architecture if there is an nvcc, audit, trial, all in a folder with a space in its name;
    nothing is written into the source tree."""
    if library.why_not("cpu") is not None:
        pytest.skip(f"this environment could not build the CPU library: {library.why_not('cpu')}")
    release = next(
        filter(None, (toolkit.release_of(home / "bin/nvcc") for home in toolkit.candidates("", os.environ))), None
    )
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "src" / "convnextv2_fast").rglob("*.so")}
    work = tmp_path / "with a space"
    sdist = build.new_sdist(work / "dist", work)
    wheel, _ = build.build_target(release or "cpu", sdist, work / "dist", work)
    assert audit.audit(wheel) == []
    if release is not None:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract("convnextv2_fast/_C_cuda.so", work))
            assert json.loads(archive.read("convnextv2_fast/_build_info.json"))["cuda_archs"] == "90-real"
        check_needed_libraries(path)
        check_what_only_a_cuda_torch_has(path)
    python = trial.install_into_clean_venv(wheel, work / "venv")
    assert "passed" in trial.try_wheel(wheel, python, work / "tests")
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "src" / "convnextv2_fast").rglob("*.so")}
