"""What has not been measured on a GPU: a table that shrinks by itself as accounts are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks import naming, tidy
from benchmarks._run import table
from benchmarks.account import page, scale
from benchmarks.tidy import Row


@dataclass(frozen=True)
class Question:
    """`answered` says whether committed rows answer it; `instead`, what there is until then."""

    text: str
    answered: Callable[[Sequence[Row]], bool]
    instead: str


def of_gpus() -> list[Row]:
    """Every committed row of a GPU."""
    return [row for path in tidy.files() for row in tidy.read(path) if not row.machine.endswith("threads")]


def together(kind: str) -> Callable[[Sequence[Row]], bool]:
    """Whether one machine's file has every provider of the account at every batch."""
    wanted = {
        (batch, *naming.published(name)) for batch in scale.BATCHES[kind] for name in scale.account_ids(kind, "timm")
    }

    def answered(rows: Sequence[Row]) -> bool:
        runs: dict[tuple[str, str], set[tuple[int | None, str, str]]] = {}
        for row in rows:
            if row.part == kind and row.ms is not None:
                runs.setdefault((row.machine, row.commit), set()).add((row.batch, row.provider, row.mode))
        return any(wanted <= found for found in runs.values())

    return answered


def part(name: str) -> Callable[[Sequence[Row]], bool]:
    """Whether there are rows of a part."""
    return lambda rows: any(row.part == name for row in rows)


def other_than(gpu: str) -> Callable[[Sequence[Row]], bool]:
    return lambda rows: any(gpu not in row.machine for row in rows)


def never(rows: Sequence[Row]) -> bool:
    """For what the account cannot measure: it runs on one NVIDIA GPU."""
    return False


def _batches(kind: str) -> str:
    *small, largest = sorted(scale.BATCHES[kind])
    return f"batch {', '.join(map(str, small))} and {largest}"


_MODEL = "[predicted](docs/gpu-model.md)"
QUESTIONS = (
    Question(
        f"inference of tiny ({_batches('inference')}): ours and timm's, also with max-autotune, in one run",
        together("inference"),
        "batch 128 in two processes of two days; " + _MODEL,
    ),
    Question(
        f"training steps of tiny ({_batches('training')}): ours as a CUDA graph and compiled, and timm's compiled",
        together("training"),
        "launched one by one, where the host limits; " + _MODEL,
    ),
    Question(
        f"FCMAE steps of tiny ({_batches('pretraining')}): ours as a CUDA graph, and masked dense compiled",
        together("pretraining"),
        "launched one by one; " + _MODEL,
    ),
    Question("the time of every kernel within a step", part("profile"), "single ops; " + _MODEL),
    Question(
        "what limits each kernel, by the hardware's counters",
        part("counters"),
        "[instructions counted in the machine code](docs/static-figures.md)",
    ),
    Question(
        "how fast the host of a GPU runs Python and launches kernels",
        part("host"),
        "[host time per block on a CPU](docs/static-figures.md)",
    ),
    Question("any GPU but an H100", other_than("H100"), "compiled for sm_80 to sm_120, emulated on CPUs"),
    Question("an AMD GPU", never, "compiled for gfx942, interpreted on CPUs"),
    Question("several GPUs: DDP, FSDP", never, "processes on CPUs"),
)


def account() -> str:
    """The newest account: whole models, steps beside their kernels, the slowest kernels."""
    for path in reversed(tidy.files()):
        rows = tidy.read(path)
        if any(row.part == "profile" for row in rows):
            return described(path.name, rows)
    return "No account has been committed yet."


def described(name: str, rows: Sequence[Row]) -> str:
    """An account, of its rows."""
    origin = rows[0].origin
    head = f"{origin.machine}, torch {origin.torch}, Triton {origin.triton}. [{name}](../benchmarks/results/{name})."
    tables = (page.models(rows), page.steps(rows), page.slowest(rows))
    return "\n\n".join([head, *("\n".join(table(cells[0], cells[1:])) for cells in tables if len(cells) > 1)])


def unmeasured() -> str:
    """The table of README."""
    return rendered(of_gpus())


def rendered(rows: Iterable[Row]) -> str:
    found = list(rows)
    open_ = [(each.text, each.instead) for each in QUESTIONS if not each.answered(found)]
    return "\n".join(table(["not measured yet", "what there is until then"], open_))
