"""A compiler launcher for CMake: takes the object of an equal command from a folder, and fills the folder.

    python launcher.py FOLDER COMPILER ARGUMENTS...

Only for builds of the same sources against the same headers: a command is known by its flags and its object's name.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """The compiler's exit code."""
    folder, *command = sys.argv[1:]
    if "-o" not in command or "-c" not in command:
        return subprocess.run(command, check=False).returncode
    made = Path(command[command.index("-o") + 1])
    # Paths differ from build to build; flags do not.
    flags = [word for word in command if word.startswith("-") and not word.startswith("-I")]
    parts = made.as_posix().rpartition("CMakeFiles/")[2]
    key = hashlib.sha256("\n".join([parts, *flags]).encode()).hexdigest()
    listed = Path(command[command.index("-MF") + 1]) if "-MF" in command else None
    kept = Path(folder) / f"{key}.o"
    if kept.exists():
        shutil.copyfile(kept, made)
        if listed is not None:
            listed.write_text(f"{made.as_posix()}:\n")
        return 0
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        part = kept.with_suffix(f".{os.getpid()}")  # another process may be at it, too
        shutil.copyfile(made, part)
        part.rename(kept)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
