"""`python -m benchmarks [PROGRAM]`: one of `PROGRAMS`, by default the photographs, which is what `make bench` runs.

Importing torch takes seconds: a line comes first, and Ctrl-C during the import ends without a traceback, like later.
"""

import importlib
import sys

PROGRAMS = {
    "photos": "reports.photos",
    "compare": "compare.__main__",
    "cpu-report": "reports.cpu_report",
    "fcmae-report": "reports.fcmae_report",
    "accelerate-report": "reports.accelerate_report",
    "numerics-report": "reports.numerics_report",
    "pretrain-photos": "reports.pretrain_photos",
    "gpu-account": "reports.gpu_account",
    "gpu-model": "kernel_model.__main__",
    "keep": "reports.keep",
}


def main(arguments: list[str]) -> int:
    """Runs a program; its exit code."""
    name, *rest = arguments if arguments and arguments[0] in PROGRAMS else ["photos", *arguments]
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"programs: {', '.join(PROGRAMS)}; without a name: photos", flush=True)
    print("importing torch: a few seconds", flush=True)
    try:
        program = importlib.import_module(f"benchmarks.{PROGRAMS[name]}")
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was measured yet", flush=True)
        return 130
    return int(program.main(rest) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
