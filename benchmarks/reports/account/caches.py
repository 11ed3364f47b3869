"""The code that compilers made, taken along to the next machine of the same kind and brought back from it.

torch.compile and Triton find their files by absolute paths, so the cache always lies in the same place. Compiling the
peers takes a quarter of an account; with the cache of an earlier one it should take much less.
"""

from __future__ import annotations

import getpass
import io
import os
import tarfile
import tempfile
from pathlib import Path

PLACE = Path(tempfile.gettempdir()) / f"convnextv2_fast-compiled-{getpass.getuser()}"
MOST = 16 << 20  # bytes of the archive
SLACK = 256 << 10  # bytes that the compressor may hold back
# Texts of what was compiled on the way: they must exist, nothing reads them.
EMPTIED = (".ttir", ".ttgir", ".llir", ".source", ".ptx")
LEFT_OUT = (".lock", ".log")


def use() -> None:
    """Has torch.compile and Triton keep what they compile here. As many processes compile at once as there are
    processors for, so each gets few helpers of its own: torch would start one for every processor."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(PLACE / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(PLACE / "triton")


def unpack(archive: Path, place: Path = PLACE) -> int:
    """Fills the cache from an archive; how many files it has."""
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
        return sum(member.isfile() for member in tar.getmembers())


def pack(archive: Path, place: Path = PLACE, most: int = MOST) -> str:
    """Writes the cache to an archive, as much of it as fits. Returns a sentence on what it has."""
    files = [path for path in place.rglob("*") if path.is_file() and path.suffix not in LEFT_OUT]
    if not files:
        return "nothing was compiled"
    kept = 0
    with archive.open("wb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=6) as tar:
        for path in sorted(files):  # inductor before triton: whole graphs and the choices tried out, then kernels
            content = b"" if path.suffix in EMPTIED else path.read_bytes()
            if raw.tell() + len(content) + SLACK > most:  # even if nothing of it can be compressed
                continue
            entry = tarfile.TarInfo(str(path.relative_to(place)))
            entry.size, entry.mtime = len(content), int(path.stat().st_mtime)
            entry.mode = 0o644 | (path.stat().st_mode & 0o111)
            tar.addfile(entry, io.BytesIO(content))
            kept += 1
    return f"the compilers' cache: {kept} of {len(files)} files, {archive.stat().st_size / 2**20:.1f} MiB"
