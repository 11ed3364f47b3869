"""Small wheels and libraries made to keep or to break a rule; nothing of the real build."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path

from tools.wheels import audit
from tools.wheels.process import ROOT

VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "src" / "convnextv2_fast" / "_version.py").read_text())[1]
SOURCE = """
extern int aoti_torch_dtype_float32(void); extern int torch_library_impl(void); {declared}
int {exported}(void) {{ return aoti_torch_dtype_float32() + torch_library_impl(){called}; }}
"""


def compile_c(source: str, output: Path, *options: str) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-xc", "-", "-o", str(output), *options]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return output


def library(folder: Path, name: str, needs: tuple[str, ...] = (), calls: str = "", exported: str = "cnv2_f") -> Path:
    """`name`, which needs the libraries `needs`, asks for the function `calls` and exports one function.

    Args:
        needs: names without "lib" and ".so"; "-option" goes to the linker as it is.
    """
    options = []
    for need in ("torch_cpu", *(["torch_cuda"] if "cuda" in name else []), *needs):
        if need.startswith("-"):
            options.append(need)
        else:
            compile_c("", folder / f"lib{need}.so", f"-Wl,-soname,lib{need}.so")
            options += [f"-L{folder}", f"-l{need}"]
    declared, called = (f"extern int {calls}(void);", f" + {calls}()") if calls else ("", "")
    source = SOURCE.format(declared=declared, called=called, exported=exported)
    return compile_c(source, folder / name, *options)


def build_info(local: str, **changes: str) -> str:
    info = {"version": f"{VERSION}+{local}", "target_abi": "2.10", "build_type": "Release", "cpu_isa": "scalar avx2"}
    cuda = {"cuda": "13.0.88", "cuda_archs": audit.default_archs((13, 0))} if local.startswith("cu") else {"cuda": ""}
    return json.dumps({**info, **cuda, **changes})


def wheel(
    folder: Path,
    local: str = "",
    tag: str = "",
    libraries: dict[str, Path] | None = None,
    changes: dict[str, str | None] | None = None,
    said_tag: str = "",
    said_version: str = "",
) -> Path:
    """A wheel with the package's Python and data files.

    Args:
        libraries: name -> file, put into the package.
        changes: name in the archive -> other text, or None to leave the file out.
        said_tag, said_version: of WHEEL and METADATA, if not those of the file name.
    """
    version = f"{VERSION}+{local}" if local else VERSION
    tag = tag or ("py3-none-linux_x86_64" if local else "py3-none-any")
    info = f"convnextv2_fast-{version}.dist-info"
    package = ROOT / "src" / "convnextv2_fast"
    paths = (path for path in sorted(package.rglob("*")) if path.name.endswith(audit.DATA))
    texts = {path.relative_to(package.parent).as_posix(): path.read_text() for path in paths}
    metadata = f"Metadata-Version: 2.4\nName: convnextv2_fast\nVersion: {said_version or version}\n"
    texts[f"{info}/METADATA"] = metadata + "Requires-Python: >=3.10\n"
    pure = str(not local).lower()
    texts[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {said_tag or tag}\n"
    texts[f"{info}/licenses/LICENSE"] = "MIT"
    if libraries:
        texts["convnextv2_fast/_build_info.json"] = build_info(local)
    texts[f"{info}/RECORD"] = ""
    for name, text in (changes or {}).items():
        texts.pop(name, None)
        if text is not None:
            texts[name] = text
    if texts.get(f"{info}/RECORD") == "":  # pip wants to see each file there
        rows = [*texts, *(f"convnextv2_fast/{name}" for name in libraries or {})]
        texts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in rows)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"convnextv2_fast-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
        for name, file in (libraries or {}).items():
            archive.write(file, f"convnextv2_fast/{name}")
    return path
