"""The account of a GPU where there is none: its own code, run dry on the CPU; budgets, crashes, taking it up again."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.reports import gpu_account, keep, naming, tidy
from benchmarks.reports.account import (
    caches,
    children,
    correctness,
    counters,
    device_tests,
    kernels,
    page,
    plan,
    running,
    scale,
    workers,
)
from benchmarks.reports.account.context import Context
from benchmarks.reports.account.crews import Task
from benchmarks.reports.account.page import Ended
from benchmarks.reports.account.plan import PARTS, Budget, Part
from benchmarks.reports.tidy import Origin
from convnextv2_fast.testing import KERNEL_OPS
from tests.benchmarks import test_results
from tools.docs import gpu

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = Origin("a machine", "2.11.0", "3.6.0", "abc", False)


@pytest.fixture
def context(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    tidy.write(tmp_path / "account.csv", [])
    return Context(tmp_path, work, ORIGIN, "cpu", True, "a part", time.monotonic() + 60)


def test_dry_run(tmp_path):
    """Takes half a minute: every part's code runs, on small shapes, and torch.compile traces three models."""
    command = [sys.executable, "-m", "benchmarks.reports.gpu_account", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, ended = tidy.read(tmp_path / "account.csv"), page.read_parts(tmp_path / "account.parts.csv")
    assert [each.part for each in ended] == [part.name for part in PARTS if not part.on_request]
    assert {each.outcome for each in ended} == {"done"}, done.stdout
    assert not [each for each in ended if each.note and each.part != "sanitizer"], done.stdout
    found = {row.part for row in rows}
    assert found == {"host", "ceilings", "correctness", "profile", "inference", "training", "pretraining", "ops"}
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        test_results.check(row)
    checked = {row.case.split("-")[0] for row in rows if row.part == "correctness"}
    assert checked >= {"mlp_grn", "dwconv_layer_norm", "grn", "layer_norm", "patch_conv", "sparse_dwconv"}
    ours = [row for row in rows if row.provider == naming.OURS and row.rel_error is not None]
    assert ours and all(row.rel_error < 1e-3 for row in ours)
    for part in ("inference", "training", "pretraining"):
        assert f"\n{part} " in done.stdout, "the ratios are on the screen"
    assert len(done.stdout.splitlines()) < 50, "a screen"
    assert str(ROOT) not in (tmp_path / "account.csv").read_text(), "no paths in a result"
    assert {path.name for path in tmp_path.iterdir()} == {"account.csv", "account.parts.csv", "logs.tar.gz"}


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_account, "gpu_name", lambda: None)
    assert gpu_account.main(["--out", str(tmp_path / "a b")]) == 0
    assert "nvidia-smi shows no GPU" in capsys.readouterr().out


def measures(context):
    context.add("case", "ours", ms=1.0)


def dies(context):
    context.add("before it died", "ours", ms=1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(context):
    context.add("before it hung", "ours", ms=1.0)
    time.sleep(60)


def raises(context):
    raise RuntimeError("no luck")


def leaves_a_child(context):
    (context.work / "child").write_text(str(children.start(context.log("child"), time.sleep, 60).pid))
    time.sleep(60)


def part(name, run, seconds=20.0):
    return Part(name, 0.0, seconds, run, "a test")


def test_a_part_that_crashes_or_hangs_costs_itself_alone(context):
    """And every row that was there before stays."""
    parts = [part("a", measures), part("b", dies), part("c", hangs, 0.5), part("d", raises), part("e", measures)]
    ended = {each.part: each for each in gpu_account.account(context, parts, 100.0, [])}
    assert [each.outcome for each in ended.values()] == ["done", "crashed", "time was up", "crashed", "done"]
    assert [each.rows for each in ended.values()] == [1, 1, 1, 0, 1]
    assert "SIGKILL" in ended["b"].note and "no luck" in ended["d"].note
    assert ended["c"].seconds < 10
    rows = tidy.read(context.rows)
    assert [(row.part, row.case) for row in rows if row.part in "bc"] == [
        ("b", "before it died"),
        ("c", "before it hung"),
    ]
    assert page.read_parts(context.out / "account.parts.csv") == list(ended.values())


def gone(pid):
    """Whether the process ends within a moment: one that has ended may wait for its parent to notice."""
    for _ in range(500):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_what_a_part_started_ends_with_it(context):
    (ended,) = gpu_account.account(context, [part("a", leaves_a_child, 0.5)], 100.0, [])
    assert ended.outcome == "time was up"
    assert gone(int((context.work / "child").read_text()))


def test_the_budget_keeps_time_for_later_parts():
    now = [0.0]
    wanted = [each for each in PARTS if not each.on_request]
    budget = Budget(plan.TOTAL, wanted, clock=lambda: now[0])
    assert budget.slice(PARTS[0]) == PARTS[0].most
    assert sum(each.least for each in wanted) + plan.FINISH <= plan.TOTAL, "every part has its least"
    for each in wanted:  # each takes all that it may
        seconds = budget.slice(each)
        assert seconds >= each.least
        now[0] += seconds
    assert now[0] + plan.FINISH <= plan.TOTAL + 1e-6
    now[0] = 1000.0
    assert budget.left() == budget.slice(PARTS[-2]) == 0.0


def test_a_part_without_time_is_said_to_be_so(context):
    ended = gpu_account.account(context, [replace(part("a", measures), least=10.0)], 1.0, [])
    assert ended == [Ended("a", "not begun", 0.0, 0, "0 s of 1 were left for it")]


def test_parts_are_chosen_by_name():
    assert [each.name for each in gpu_account.choose(["ratios", "host"])] == ["host", "ratios"]
    assert "tests" not in {each.name for each in gpu_account.choose([])}
    with pytest.raises(ValueError, match="no such part: speed; there are host, correctness"):
        gpu_account.choose(["speed"])


def test_an_account_is_taken_up_again(context):
    gpu_account.account(context, [part("a", measures)], 100.0, [])
    tidy.append(context.rows, context.row("torn", "ours", ms=2.0))
    with context.rows.open("a") as file:
        file.write("a machine,2.11.0,3.6")  # cut off
    before = gpu_account.begin(context, resume=True)
    assert [each.part for each in before] == ["a"]
    assert [row.case for row in tidy.read(context.rows)] == ["case", "torn"]
    assert context.of("a", 1.0).has("case", "ours") and not context.of("a", 1.0).has("other", "ours")
    other = replace(context, origin=replace(ORIGIN, commit="def"))
    with pytest.raises(ValueError, match="cannot resume"):
        gpu_account.begin(other, resume=True)
    assert gpu_account.begin(context, resume=False) == [] and tidy.read(context.rows) == []


def test_a_wrong_op_yields_no_figure(context, monkeypatch):
    """Found wrong by the correctness part, it is left out of the comparison of kernels."""
    from benchmarks.reports.account import ops

    public = correctness.problems.public
    monkeypatch.setattr(correctness.problems, "public", lambda op: lambda *a, **k: 1.1 * public(op)(*a, **k))
    monkeypatch.setattr(correctness.scale, "prepare_process", lambda context: None)
    here = context.of("correctness", 60.0)
    correctness.one("grn", "cpu", here)
    assert not tidy.read(here.rows)
    assert any(text.startswith("RED grn-") and "relative error" in text for text in here.said())
    assert correctness.forbidden(here, "grn", "cpu", "float32") and correctness.any_forbidden(here)
    assert not any(group.candidates for group in ops.groups("grn", here, 1))
    assert all(group.candidates for group in ops.groups("layer_norm", here, 1))


def test_results_that_do_not_repeat_are_red(context, monkeypatch):
    monkeypatch.setattr(correctness.scale, "prepare_process", lambda context: None)
    monkeypatch.setattr(correctness, "checked", lambda case, backend: (1e-9, False))
    correctness.one("grn", "cpu", context)
    assert "a second run gave other bits" in context.said()[0] and not tidy.read(context.rows)


def test_each_op_is_checked_at_six_shapes():
    for op in KERNEL_OPS:
        assert len(set(scale.checked_shapes(op, dry=False))) == 6, op


def test_a_worker_that_dies_is_left_out(context):
    subject = scale.Subject("inference", 1, True)
    crew = workers.Crew(["fast", "masked-dense"], context, "inference")
    try:
        answers = crew.all("trace", subject, ends=time.monotonic() + 60)
        assert set(answers) == {"fast"} and len(crew.workers) == 2, "it refused, but lives"
        os.kill(crew.workers[1].process.pid, signal.SIGKILL)
        assert set(crew.all("ready", subject, ends=time.monotonic() + 60)) == {"fast"}
        assert [worker.provider for worker in crew.workers] == ["fast"]
        assert crew.one("fast", "turn", subject, 1, ends=time.monotonic() + 60) > 0
        assert crew.one("fast", "turn", subject, 10**9, ends=time.monotonic() + 0.3) is None, "too slow: ended"
        assert not crew.workers
    finally:
        crew.close()
    said = "\n".join(context.said())
    assert "masked-dense eager, inference, batch 1: KeyError" in said
    assert "SIGKILL" in said and "time was up" in said


class FakeCrew:
    """Answers at once, and writes down who was asked."""

    def __init__(self, context, failing=()):
        self.context, self.failing, self.asked = context, failing, []

    def one(self, provider, method, subject, calls, *, ends):
        self.asked.append(provider)
        return None if provider in self.failing else 0.01 * calls / calls


def test_providers_are_asked_in_turn(context):
    crew = FakeCrew(context)
    names, once = ["a", "b", "c"], {"a": 0.01, "b": 0.5, "c": 1e-9}
    found = workers.in_turn(crew, None, names, once, rounds=3, until=time.monotonic() + 60)
    assert crew.asked == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert found == {name: [0.01] * 3 for name in names}
    crew = FakeCrew(context, failing=("b",))
    found = workers.in_turn(crew, None, names, once, rounds=3, until=time.monotonic() + 60)
    assert crew.asked.count("b") == 1 and found["b"] == [] and len(found["c"]) == 3
    crew = FakeCrew(context)
    assert len(workers.in_turn(crew, None, names, once, rounds=9, until=0.0)["a"]) == 1, "one round always"


def test_the_plan_for_a_gpu_can_be_made_without_one():
    """Every model's columns are known before anything runs, and no two rows share a key."""
    for kind in ("inference", "training", "pretraining"):
        wanted = [
            (batch, naming.published(name)) for batch in scale.batches(kind, False) for name in scale.ids(kind, False)
        ]
        ways = {"eager", "graph", "compile", "reduce-overhead"} | ({"frozen"} if kind == "inference" else set())
        assert len(set(wanted)) == len(wanted) == (len(ways) + 2) * len(scale.batches(kind, False))
        modes = {mode for _, (whose, mode) in wanted if whose == naming.OURS}
        assert modes == ways
        assert {mode for _, (whose, mode) in wanted if whose != naming.OURS} == {"compile", "max-autotune"}


TABLE = """==PROF== Connected to process 1
==PROF== Profiling "mma_forward" - 1: 0%....50%....100% - 3 passes
"ID","Process ID","Kernel Name","Grid","gpu__time_duration.sum","dram__bytes_read.sum","smsp__inst_executed_pipe_xu.sum"
"","","","","ns","byte","inst"
"0","1","at::cuda::(anonymous namespace)::spin_kernel(long)","(1, 1, 1)","2,016","0","0"
"1","1","void cnv2::mma_forward<1>(int)","(9, 1, 1)","101,500","77,070,336","1,024"
"2","1","void cnv2::layer_norm<8>(int)","(9, 1, 1)","70,000","77,070,336","512"
"3","1","void cnv2::layer_norm<8>(int)","(9, 1, 1)","71,000","n/a","512"
"4","1","at::cuda::(anonymous namespace)::spin_kernel(long)","(1, 1, 1)","2016","0","0"
"5","1","mlp_activate","(9, 1, 1)","300000","1","2"
==PROF== Disconnected
"""


def test_the_table_of_the_counters_is_read():
    found = list(counters.parsed(TABLE))
    assert [(case, name) for case, name, _, _ in found] == [
        (0, "void cnv2::mma_forward<1>(int)"),
        (0, "void cnv2::layer_norm<8>(int)"),
        (0, "void cnv2::layer_norm<8>(int) #2"),
        (1, "mlp_activate"),
    ]
    assert found[0][2] == pytest.approx(101.5e-6)
    assert found[0][3] == {"dram_read": "7.707e+07", "xu": "1024"}
    assert found[2][3] == {"xu": "512"}, "a metric that could not be read is left out"
    assert list(counters.parsed("==ERROR== ERR_NVGPUCTRPERM\n")) == []


def test_counters_become_rows_of_their_cases(context):
    assert counters.add(context, TABLE) == 4
    rows = tidy.read(context.rows)
    first, second = kernels.cases("cuda")[:2]
    assert rows[0].case == first.case("cpu").what and rows[3].case == second.case("cpu").what
    assert rows[0].mode == "cuda: void cnv2::mma_forward<1>(int)" and rows[0].ms == pytest.approx(0.1015)
    assert rows[0].notes["xu"] == "1024"


def test_marks_stand_before_each_case():
    log = []
    kernels.run_all("cpu", time.monotonic() + 60, lambda: log.append("mark"), log.append)
    assert log[::2] == ["mark"] * len(kernels.cases("cpu")) and all("ran" in text for text in log[1::2])
    log.clear()
    kernels.run_all("cpu", 0.0, lambda: log.append("mark"), log.append)
    assert log == ["time was up"]


def test_the_cache_is_brought_back_whole(tmp_path):
    place, again = tmp_path / "place", tmp_path / "again"
    (place / "triton" / "a").mkdir(parents=True)
    (place / "triton" / "a" / "k.cubin").write_bytes(b"\0code")
    (place / "triton" / "a" / "k.ttir").write_text("text " * 1000)
    (place / "x.lock").touch()
    assert "2 of 2 files" in caches.pack(tmp_path / "c.tar.gz", place)
    assert caches.unpack(tmp_path / "c.tar.gz", again) == 2
    assert (again / "triton/a/k.cubin").read_bytes() == b"\0code"
    assert (again / "triton/a/k.ttir").read_bytes() == b"", "there, and empty"
    (place / "large").write_bytes(os.urandom(4096))
    assert "2 of 3 files" in caches.pack(tmp_path / "c.tar.gz", place, most=caches.SLACK + 2048), "what fits"
    assert caches.pack(tmp_path / "none.tar.gz", tmp_path / "nothing") == "nothing was compiled"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tests/a.py::b PASSED\ntests/a.py::c[1] FAILED\n", "RED 1 passed, 1 failed"),
        ("tests/a.py::b PASSED\n::the test behind those of x ERROR\n", "RED 1 passed, 1 error"),
        ("tests/a.py::b SKIPPED (why)\ntime was up\n", "1 skipped; time was up"),
        ("", "none ran"),
    ],
)
def test_outcomes_of_the_device_tests(text, said):
    assert device_tests.outcome(text) == said


@pytest.mark.parametrize(
    ("codes", "afters"),
    [([0], [0]), ([1], [0]), ([5], [0]), ([None], [0]), ([-11, 0], [0, 2]), ([device_tests.DEVICE_LOST, 0], [0, 1])],
)
def test_behind_a_crash_the_device_tests_go_on(context, monkeypatch, codes, afters):
    """With the test after the one that crashed; a lost device has said itself which test failed."""
    commands, left = [], list(codes)

    def begin(command, log):
        commands.append(command)
        log.write_text("tests/test_a.py::test_a PASSED\n")

    monkeypatch.setattr(device_tests.programs, "begin", begin)
    monkeypatch.setattr(device_tests.programs, "finish", lambda process, ends: left.pop(0))
    device_tests.shard(context, 1, 3)
    assert [int(command[command.index("--after") + 1]) for command in commands] == afters
    assert all("1/3" in command for command in commands)


def test_the_page_is_one_screen(context):
    columns = {"part": "training", "batch": 64}
    rows = [
        context.row("m", naming.OURS, "eager", ms=38.0, **columns),
        context.row("m", naming.OURS, "graph", ms=10.0, peak_mib=1000.0, **columns),
        context.row("m", "timm", "compile", ms=16.0, **columns),
        context.row("m", "timm", "max-autotune", ms=15.0, **columns),
        context.row("m", naming.OURS, "eager: wall", ms=38.0, part="profile", batch=64),
        context.row("m", naming.OURS, "eager: gpu: all", ms=13.5, part="profile", batch=64, note="calls=760"),
        context.row("m", naming.OURS, "eager: gpu mma_forward", ms=1.5, part="profile", batch=64, note="calls=18"),
    ]
    ended = [Ended("host", "done", 3.0, 4), Ended("ratios", "time was up", 9.0, 2, "because " * 40)]
    lines = page.summary(rows, ended).splitlines()
    assert lines[0] == "a machine, torch 2.11.0, Triton 3.6.0; commit abc"
    (training,) = (line.split() for line in lines if line.startswith("training"))
    assert training == ["training", "64", "38.000", "10.000", "16.000", "15.000", "1.50"]
    assert [line.split() for line in lines if "760" in line] == [["m", naming.OURS, "eager", "38.000", "13.500", "760"]]
    assert max(map(len, lines)) <= page.WIDTH
    assert page.summary([], []).startswith("nothing measured")
    assert page.slowest(rows)[1:] == [["m", "`mma_forward`", "18", "1.500", "11"]]
    text = gpu.described("a.csv", rows)
    assert "| training | 64 | 38.000 | 10.000 |" in text and "| m | `mma_forward` | 18 | 1.500 | 11 |" in text


def test_a_captured_graph_gives_its_result():
    """Workers compare what a graph wrote with what the same calls give when they are launched one by one."""
    assert [t.tolist() for t in workers._tensors([torch.ones(1), torch.zeros(1)])] == [[1.0], [0.0]]


def test_an_account_is_kept(context, tmp_path):
    """In the file of its machine and day, parts of a rerun in place of the first; never from a tree with changes."""
    results = tmp_path / "results"
    gpu_account.account(context, [part("a", measures), part("b", measures)], 100.0, [])
    path = keep.keep(tmp_path, "2030-01-01", results)
    assert path.name == "a-machine-2030-01-01.csv"
    tidy.write(context.rows, [context.row("again", "ours", ms=2.0, part="a")])
    page.write_parts(tmp_path / "account.parts.csv", [Ended("a", "time was up", 1.0, 1)])
    keep.keep(tmp_path, "2030-01-01", results)
    assert [(row.part, row.case) for row in tidy.read(path)] == [("b", "case"), ("a", "again")]
    assert {each.part: each.outcome for each in page.read_parts(path.with_suffix(".parts.csv"))} == {
        "a": "time was up",
        "b": "done",
    }
    with pytest.raises(ValueError, match="from a clean tree only"):
        tidy.write(context.rows, [replace(context, origin=replace(ORIGIN, dirty=True)).row("c", "ours", ms=1.0)])
        keep.keep(tmp_path, "2030-01-01")


def test_what_is_not_measured_shrinks_by_itself(context):
    """README's table: a question goes once one run of one machine has all its rows."""
    wanted = [
        (batch, naming.published(name)) for batch in scale.BATCHES["training"] for name in scale.ids("training", False)
    ]
    rows = [context.row("m", *who, part="training", batch=batch, ms=1.0) for batch, who in wanted]
    rows = [replace(row, provider="timm") if row.provider == "upstream" else row for row in rows]
    assert "training steps of tiny" in gpu.rendered([]) and "hardware's counters" in gpu.rendered(rows)
    assert "training steps of tiny" not in gpu.rendered(rows)
    assert "training steps of tiny" in gpu.rendered(rows[1:]), "one is missing"
    assert "training steps of tiny" in gpu.rendered([rows[0], *(replace(row, machine="b") for row in rows[1:])])


def shares(context, crews):
    crews.crews["seen"] = context.part if "seen" not in crews.crews else crews.crews["seen"] + context.part
    context.add(crews.crews["seen"], "ours", ms=1.0)
    crews.close = lambda: None


def test_parts_that_share_workers_run_in_one_process(context):
    parts = [replace(part(name, shares), crews=True) for name in "ab"]
    parts = [part("first", measures), *parts, replace(part("c", hangs_sharing, 0.5), crews=True)]
    parts += [replace(part("d", shares), crews=True), replace(part("e", raises_sharing), crews=True)]
    parts += [replace(part("f", shares), crews=True), part("last", measures)]
    assert [len(group) for group in plan.together(parts)] == [1, 6, 1]
    ended = {each.part: each for each in gpu_account.account(context, parts, 100.0, [])}
    outcomes = ["done", "done", "done", "time was up", "done", "crashed", "done", "done"]
    assert [each.outcome for each in ended.values()] == outcomes
    assert [each.rows for each in ended.values()] == [1, 1, 1, 1, 1, 0, 1, 1]
    assert "no luck" in ended["e"].note
    cases = {row.part: row.case for row in tidy.read(context.rows)}
    assert (cases["a"], cases["b"]) == ("a", "ab"), "b has what a left"
    assert (cases["d"], cases["f"]) == ("d", "df"), "behind a part that hung, they begin anew"


def hangs_sharing(context, crews):
    hangs(context)


def raises_sharing(context, crews):
    raises(context)


def test_a_worker_begins_nothing_that_it_cannot_end(context):
    """Ended in the middle, it would lose what it has compiled before."""
    asked = []

    class Slow:
        provider, columns = "fast", ("convnextv2_fast", "eager")

        def has_answer(self):
            return time.monotonic() > self.begun + 0.3

    worker = Slow()

    class Crew:
        kind, workers = "inference", [worker]

        def ask(self, worker, method, subject):
            worker.begun = time.monotonic()
            asked.append(subject.batch)
            return True

        def answer(self, worker, ends, arguments):
            return [1e-9]

    crew = Crew()
    crew.context = context
    task = Task(crew, worker, [scale.Subject("inference", batch, True) for batch in (1, 2, 3)])
    traced, ends = set(), time.monotonic() + 0.8
    while task.step(traced, ends):
        time.sleep(0.01)
    assert asked == [1, 2] and {subject.batch for _, subject in traced} == {1, 2}
    assert context.said() == ["convnextv2_fast eager, inference: no time to compile batch 3"]


def test_the_page_has_the_plan():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for each in PARTS:
        assert f"| `{each.name}` | {each.most:.0f} |" in text


def test_a_row_that_was_torn_does_not_end_the_account(context):
    gpu_account.account(context, [part("a", measures)], 100.0, [])
    with context.rows.open("ab") as file:
        file.write(b"a machine,2.11.0\n\xff\xfe,,\n")
    tidy.append(context.rows, context.row("whole", "ours", ms=2.0))
    with pytest.raises(ValueError, match=r"account\.csv"):
        tidy.read(context.rows)
    assert [row.case for row in tidy.readable(context.rows)] == ["case", "whole"]
    (ended,) = gpu_account.account(context, [part("b", measures)], 100.0, [])
    assert (ended.outcome, ended.rows) == ("done", 1)


def test_a_device_that_cannot_be_used_ends_the_account(context, tmp_path, monkeypatch, capsys):
    """And a cache that cannot be read does not."""
    (tmp_path / "cache.tar.gz").write_text("no archive")
    monkeypatch.setattr(children, "choose_start", lambda log: log.write_text("no driver\n") and "")
    why = gpu_account.unusable(context, tmp_path / "cache.tar.gz")
    assert why == "no process can use the device: no driver"
    assert "cache.tar.gz cannot be read" in capsys.readouterr().out
    monkeypatch.setattr(children, "choose_start", lambda log: "fork")
    assert gpu_account.unusable(context, None) == ""


def test_without_a_commit_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_account, "gpu_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu_account.machine, "commit", lambda: {"commit": None, "dirty": None})
    with pytest.raises(SystemExit):
        gpu_account.main(["--out", str(tmp_path / "a")])
    assert "name the commit" in capsys.readouterr().err
    assert gpu_account.machine.origin("abc-dirty", "NVIDIA H200").dirty is True


def starts_what_starts(path):
    """A child in a session of its own, as compilers start them, and its child."""
    inner = f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    subprocess.run([sys.executable, "-c", outer], start_new_session=True, check=False)


def test_what_a_process_started_ends_with_it(tmp_path):
    path = tmp_path / "pid"
    process = children.start(tmp_path / "log", starts_what_starts, path)
    while not (path.exists() and path.read_text()):
        time.sleep(0.02)
    children.end(process)
    assert gone(int(path.read_text()))


def test_a_crash_is_noticed_at_once(context):
    """Though its children hold open what its parent waits for."""
    (ended,) = gpu_account.account(context, [part("a", dies_with_a_child, 20.0)], 100.0, [])
    assert ended.outcome == "crashed" and ended.seconds < 10


def dies_with_a_child(context):
    children.start(context.log("child"), time.sleep, 60)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_does_not_end_behind_its_last_part_is_ended():
    one = [part("a", measures)]
    budget = Budget(100.0, one, clock=lambda: 0.0)
    assert running.until(one, {}, budget) == 100.0 - plan.FINISH + running.LATE
    assert running.until(one, {"a": {"begun": (1.0, 21.0)}}, budget) == 21.0 + running.LATE
    assert running.until(one, {"a": {"begun": (1.0, 21.0), "done": (7.0, 0.0)}}, budget) == 7.0 + running.SETTLE
