"""Every rule of the audit, kept by a good wheel and broken by a doctored one."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from convnextv2_fast import library as installed
from tests.packaging import fake
from tools.wheels import audit

FOLDER = Path(installed.__file__).parent
needs_compiler = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("cc", "nm", "readelf")), reason="no C compiler or no binutils"
)
needs_auditor = pytest.mark.skipif(
    importlib.util.find_spec("torch_abi_audit") is None, reason="torch-abi-audit is not installed"
)


def libraries(folder: Path, local: str, **doctored) -> dict[str, Path]:
    """The libraries of a good wheel; `doctored` goes to the last one."""
    names = audit.LIBRARIES["cu" if local.startswith("cu") else local]
    return {name: fake.library(folder, name, **(doctored if name == names[-1] else {})) for name in names}


@needs_compiler
@needs_auditor
@pytest.mark.parametrize(
    ("local", "tag"), [("", ""), ("cpu", ""), ("cu130", ""), ("cu130", "py3-none-manylinux_2_28_aarch64")]
)
def test_a_good_wheel(tmp_path, local, tag):
    assert audit.audit(fake.wheel(tmp_path, local, tag, libraries(tmp_path / "lib", local))) == []


# rule: (wheel's arguments, or of its library, and what the line says)
FILES = {
    "name": [({"tag": "py3-none"}, "want convnextv2_fast-<version>")],
    "tag": [
        (
            {"local": "cpu", "tag": "cp311-cp311-linux_x86_64"},
            "cp311-cp311-linux_x86_64, where libraries want py3-none",
        ),
        ({"local": "cpu", "tag": "py3-none-manylinux_2_34_x86_64"}, "where libraries want"),
        ({"tag": "py3-none-linux_x86_64"}, "where no local version means py3-none-any"),
        ({"local": "cpu", "said_tag": "py3-none-any"}, "the file WHEEL says ['py3-none-any']"),
        ({"local": "rocm6"}, "local version 'rocm6' is none of"),
    ],
    "version": [
        ({"said_version": "9.9"}, "METADATA says 9.9, the file name 0.1.0"),
        (
            {"changes": {"convnextv2_fast/_version.py": '__version__ = "0.0.9"\n'}},
            "_version.py says 0.0.9, the file name",
        ),
    ],
    "contents": [
        ({"changes": {"tests/test_ops.py": ""}}, "tests/test_ops.py does not belong to the package"),
        ({"changes": {"convnextv2_fast/csrc/kernel.cu": ""}}, "kernel.cu belongs to the build"),
        ({"changes": {"convnextv2_fast/py.typed": None}}, "convnextv2_fast/py.typed is missing"),
        ({"changes": {"convnextv2_fast/ops/_triton/tiles.tsv": None}}, "tiles.tsv is missing"),
        ({"local": "cpu"}, "the libraries are [], not ['_C_cpu.so']"),
        ({"changes": {"convnextv2_fast/_build_info.json": "{}"}}, "_build_info.json is there, without a library"),
    ],
}
INFOS = [
    ("cu130", {"cuda_archs": "80-real"}, "cuda_archs is '80-real', not '80-real 86-real"),
    ("cu130", {"cuda_archs": "90-virtual"}, "without binary code"),
    ("cu130", {"cuda": "12.8.93"}, "cuda is '12.8.93'"),
    ("cpu", {"cuda": "13.0.88"}, "cuda is '13.0.88'"),
    ("cpu", {"version": "0.0.9+cpu"}, "version is '0.0.9+cpu', not"),
    ("cpu", {"target_abi": "2.13"}, "target_abi is '2.13', not '2.10'"),
    ("cpu", {"build_type": "Debug"}, "build_type is 'Debug'"),
    ("cpu", {"cpu_isa": "avx2"}, "without scalar"),
]
BINARIES = {
    "needed": [
        ({"needs": ("cudart",)}, "needs libcudart.so"),
        ({"needs": ("cuda",)}, "needs libcuda.so"),
        ({"needs": ("python3.11",)}, "needs libpython3.11.so"),
        ({"needs": ("-Wl,-rpath,/opt/lib",)}, "has the search path '/opt/lib'"),
    ],
    "symbols": [
        ({"calls": "PyObject_Repr"}, "asks for PyObject_Repr (of Python; 1 in all)"),
        ({"calls": "_ZN3c105ErrorC1Ev"}, "(C++ of torch; 1 in all)"),
        ({"calls": "cudaMalloc"}, "asks for cudaMalloc (of CUDA, whose runtime is to be inside; 1 in all)"),
        ({"exported": "dwconv"}, "exports dwconv (1 in all)"),
    ],
    "stable abi": [({"calls": "_ZN2at8internal10do_nothingEv"}, "torch-abi-audit says:")],
}


def cases(table):
    return [pytest.param(rule, *case, id=f"{rule}-{i}") for rule, all_ in table.items() for i, case in enumerate(all_)]


def only(lines: list[str], wheel: Path, rule: str, message: str) -> None:
    """There is such a line, and every line names the wheel and the rule."""
    assert any(message in line for line in lines), lines
    assert all(line.startswith(f"{wheel.name}: {rule}: ") and "\n" not in line for line in lines)


def test_every_rule_has_a_broken_wheel():
    shown = {*FILES, *BINARIES, "build info", "size", "glibc"} - {"name"}
    assert shown == set(audit.RULES)


@pytest.mark.parametrize(("rule", "arguments", "message"), cases(FILES))
def test_files(tmp_path, rule, arguments, message):
    wheel = fake.wheel(tmp_path, **arguments)
    only(audit.audit(wheel, (rule,) if rule in audit.RULES else ()), wheel, rule, message)


@pytest.mark.parametrize(("local", "info", "message"), INFOS)
def test_build_info(tmp_path, monkeypatch, local, info, message):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    (tmp_path / "empty").write_text("")
    names = audit.LIBRARIES[local[:2] if local.startswith("cu") else local]
    changes = {"convnextv2_fast/_build_info.json": fake.build_info(local, **info)}
    wheel = fake.wheel(tmp_path, local, libraries=dict.fromkeys(names, tmp_path / "empty"), changes=changes)
    only(audit.audit(wheel, ("build info",)), wheel, "build info", message)


def test_build_info_of_chosen_architectures(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    (tmp_path / "empty").write_text("")
    changes = {"convnextv2_fast/_build_info.json": fake.build_info("cu130", cuda_archs="80-real")}
    names = dict.fromkeys(audit.LIBRARIES["cu"], tmp_path / "empty")
    assert audit.audit(fake.wheel(tmp_path, "cu130", libraries=names, changes=changes), ("build info",)) == []


@needs_compiler
@needs_auditor
@pytest.mark.parametrize("local", ["cpu", "cu130"])
@pytest.mark.parametrize(("rule", "doctored", "message"), cases(BINARIES))
def test_binaries(tmp_path, local, rule, doctored, message):
    wheel = fake.wheel(tmp_path, local, libraries=libraries(tmp_path / "lib", local, **doctored))
    only(audit.audit(wheel, (rule,)), wheel, rule, message)


@needs_compiler
def test_cuda_without_a_record_of_libtorch_cuda(tmp_path):
    """The trap of linking with a CPU-only torch."""
    cpu = fake.library(tmp_path / "lib", "_C_cpu.so")
    wheel = fake.wheel(tmp_path, "cu130", libraries={"_C_cpu.so": cpu, "_C_cuda.so": cpu})
    only(audit.audit(wheel, ("needed",)), wheel, "needed", "_C_cuda.so does not record that it needs libtorch_cuda.so")
    cuda = fake.library(tmp_path / "lib", "_C_cuda.so")
    wheel = fake.wheel(tmp_path, "cpu", libraries={"_C_cpu.so": cuda})
    only(audit.audit(wheel, ("needed",)), wheel, "needed", "which a CPU build of torch lacks")


@needs_compiler
@pytest.mark.parametrize("symbol", ["GLIBC_2.34", "GLIBCXX_3.4.26", "CXXABI_1.3.13"])
def test_too_new_for_manylinux(tmp_path, symbol):
    """The same library may ask for it under the plain linux tag."""
    script = tmp_path / "versions"
    script.write_text(f"{symbol} {{ global: newer; }};")
    needed = fake.compile_c(
        "int newer(void) { return 1; }", tmp_path / "lib" / "libm.so", f"-Wl,--version-script={script}"
    )
    compiled = fake.library(tmp_path / "lib", "_C_cpu.so", needs=(f"-Wl,{needed}",), calls="newer")
    for tag, kept in (("linux", True), ("manylinux_2_28", False)):
        wheel = fake.wheel(tmp_path / tag, "cpu", f"py3-none-{tag}_x86_64", {"_C_cpu.so": compiled})
        found = audit.audit(wheel, ("glibc",))
        assert found == [] if kept else found
        if not kept:
            only(found, wheel, "glibc", f"asks for newer@{symbol}, newer than py3-none-manylinux_2_28_x86_64 promises")


def test_size(tmp_path, monkeypatch):
    wheel = fake.wheel(tmp_path)
    assert audit.audit(wheel, ("size",)) == []
    monkeypatch.setattr(audit, "LARGEST", 1000)
    only(audit.audit(wheel, ("size",)), wheel, "size", "more than 0 MiB")


@needs_compiler
def test_not_a_library(tmp_path):
    (tmp_path / "text").write_text("no library")
    wheel = fake.wheel(tmp_path, "cpu", libraries={"_C_cpu.so": tmp_path / "text"})
    only(audit.audit(wheel, ("symbols",)), wheel, "symbols", "_C_cpu.so: exit code 1: ")


@needs_compiler
def test_without_the_auditor_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(audit.sys, "executable", "/bin/sh")  # no Python, so that nothing can be imported
    wheel = fake.wheel(tmp_path, "cpu", libraries=libraries(tmp_path / "lib", "cpu"))
    only(audit.audit(wheel, ("stable abi",)), wheel, "stable abi", "torch-abi-audit says")


@needs_compiler
@needs_auditor
@pytest.mark.skipif(not (FOLDER / "_C_cpu.so").exists(), reason=str(installed.why_not("cpu")))
def test_the_libraries_built_here(tmp_path):
    """Those of this installation, which may be built in any way, in a wheel of the kind that they make."""
    local = "cu130" if (FOLDER / "_C_cuda.so").exists() else "cpu"
    names = audit.LIBRARIES["cu" if local == "cu130" else local]
    wheel = fake.wheel(tmp_path, local, libraries={name: FOLDER / name for name in names})
    assert audit.audit(wheel) == []
