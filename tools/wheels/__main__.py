"""`python -m tools.wheels`: the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import abi, audit, build, index, trial
from .process import ROOT, Failure

WORK = ROOT / "build"


def report(failures: list[str]) -> int:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def run_build(arguments: argparse.Namespace) -> int:
    """sdist, wheels from it, their audit, and a trial of each in a clean environment."""
    out = arguments.out.resolve()
    sdist = build.new_sdist(out, WORK)
    print(f"{sdist.name}  {sdist.stat().st_size / audit.MIB:.2f} MiB", flush=True)
    failures = []
    for target in arguments.targets:
        start = time.monotonic()
        wheel, remark = build.build_target(target, sdist, out, WORK, arguments.platform)
        built = time.monotonic() - start
        found = audit.audit(wheel)
        said = f"{len(audit.RULES)} rules kept" if not found else f"{len(found)} VIOLATIONS"
        if not found and not arguments.no_trial:
            folder = WORK / "wheels" / (build.channel_of(target) or "any")
            try:
                said = trial.try_wheel(wheel, trial.install_into_clean_venv(wheel, folder / "venv"), folder / "tests")
            except Failure as failure:
                found = [f"{wheel.name}: trial: {failure}"]
                said = "TRIAL FAILED"
        failures += found
        took = f"{built:.0f} + {time.monotonic() - start - built:.0f} s"
        remarks = "; ".join(filter(None, (remark, said)))
        print(f"{wheel.name}  {wheel.stat().st_size / audit.MIB:.2f} MiB  [{took}]  {remarks}", flush=True)
    return report(failures)


def run_audit(arguments: argparse.Namespace) -> int:
    failures = [line for wheel in arguments.wheels for line in audit.audit(wheel)]
    if not failures:
        print(f"{len(arguments.wheels)} wheels keep {len(audit.RULES)} rules: {', '.join(audit.RULES)}")
    return report(failures)


def run_trial(arguments: argparse.Namespace) -> int:
    failures = []
    for wheel in arguments.wheels:
        folder = WORK / "trial"
        try:
            python = trial.install_into_clean_venv(wheel.resolve(), folder / "venv")
            print(wheel.name, trial.try_wheel(wheel, python, folder / "tests"), sep=": ", flush=True)
        except Failure as failure:
            failures.append(f"{wheel.name}: trial: {failure}")
    return report(failures)


def run_abi(arguments: argparse.Namespace) -> int:
    wheel = (arguments.wheel or abi.choose(ROOT / "dist")).resolve()
    print(wheel.name, flush=True)
    return report(abi.check_abi(wheel, arguments.torch, WORK / "check-abi", not arguments.remove))


def run_index(arguments: argparse.Namespace) -> int:
    channels = index.write_index(arguments.folder, arguments.out)
    print(f"{arguments.out}: {', '.join(channels)}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.wheels", description=__doc__)
    commands = parser.add_subparsers(required=True)

    add = commands.add_parser("build", help="sdist and wheels, audited and tried, into a folder")
    add.add_argument("targets", nargs="*", help="any (pure Python), cpu, or CUDA releases such as 13.0")
    add.add_argument("--out", type=Path, default=ROOT / "dist")
    add.add_argument("--platform", default="", help="platform tag, as manylinux_2_28_x86_64 in its container")
    add.add_argument("--no-trial", action="store_true", help="audit only")
    add.set_defaults(run=run_build)

    add = commands.add_parser("audit", help="the rules that every wheel keeps")
    add.add_argument("wheels", nargs="+", type=Path)
    add.set_defaults(run=run_audit)

    add = commands.add_parser("trial", help="installs each wheel in a clean environment and uses it there")
    add.add_argument("wheels", nargs="+", type=Path)
    add.set_defaults(run=run_trial)

    add = commands.add_parser("check-abi", help="one wheel on several versions of torch (some GB each)")
    add.add_argument("torch", nargs="+", help=f"versions such as 2.10.0, or {abi.NEWEST!r}")
    add.add_argument("--wheel", type=Path, help="default: the newest file of dist/ that holds libraries")
    add.add_argument("--remove", action="store_true", help="remove each environment after use")
    add.set_defaults(run=run_abi)

    add = commands.add_parser("index", help="the static index that serves a folder of wheels")
    add.add_argument("folder", type=Path)
    add.add_argument("out", type=Path)
    add.set_defaults(run=run_index)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        return int(arguments.run(arguments))
    except Failure as failure:
        return report([str(failure)])


if __name__ == "__main__":
    sys.exit(main())
