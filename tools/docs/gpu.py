"""What has not been measured on a GPU: a table that shrinks by itself as accounts are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.reports import naming, tidy
from benchmarks.reports.account import page, scale
from benchmarks.reports.program import table
from benchmarks.reports.tidy import Row


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


_MODEL = "[a prediction](gpu-model.md)"
QUESTIONS = (
    Question(
        f"inference of tiny ({_batches('inference')}) beside timm's model, eager, compiled and with max-autotune, all "
        "in one run",
        together("inference"),
        f"batch 128 only, in two processes on two days; {_MODEL}",
    ),
    Question(
        f"training steps of tiny ({_batches('training')}) as a CUDA graph and under torch.compile, beside timm's",
        together("training"),
        f"steps whose kernels are launched one by one, which the host slows down; {_MODEL}",
    ),
    Question(
        f"FCMAE steps of tiny ({_batches('pretraining')}) as a CUDA graph, beside compiled masked dense convolutions",
        together("pretraining"),
        f"steps whose kernels are launched one by one; {_MODEL}",
    ),
    Question("the time of every kernel within a step", part("profile"), f"single ops; {_MODEL}"),
    Question(
        "what limits each kernel, by the hardware's counters",
        part("counters"),
        "[instruction counts from the machine code](static-figures.md)",
    ),
    Question(
        "how fast the host of a GPU runs Python and launches kernels",
        part("host"),
        "[host time of a block, on a CPU](static-figures.md)",
    ),
    Question("any GPU but an H100", other_than("H100"), f"nothing measured; {_MODEL}"),
    Question("an AMD GPU", never, "nothing measured"),
    Question("several GPUs (DDP, FSDP2)", never, "nothing measured"),
)


def account() -> str:
    """The newest account: whole models, steps beside their kernels, the slowest kernels."""
    for path in reversed(tidy.files()):
        rows = tidy.read(path)
        if any(row.part == "profile" for row in rows):
            return described(path.name, rows)
    return "No account has been committed yet."


def described(name: str, rows: Sequence[Row]) -> str:
    """An account in words and tables, made of its rows."""
    origin = rows[0].origin
    head = f"{origin.machine}, torch {origin.torch}, Triton {origin.triton}. [{name}](../benchmarks/results/{name})."
    tables = (page.models(rows), page.steps(rows), page.slowest(rows))
    return "\n\n".join([head, *("\n".join(table(cells[0], cells[1:])) for cells in tables if len(cells) > 1)])


def unmeasured() -> str:
    """The table of performance.md."""
    return rendered(of_gpus())


def rendered(rows: Iterable[Row]) -> str:
    found = list(rows)
    open_ = [(each.text, each.instead) for each in QUESTIONS if not each.answered(found)]
    return "\n".join(table(["not measured yet", "available instead"], open_))
