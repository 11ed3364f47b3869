"""The CPU report: its arithmetic, its page, and its measurements at a size where they take a second."""

import json
import mmap
import re
import subprocess

import pytest

import convnextv2_fast as cf
from benchmarks.reports import cpu_models, cpu_pages, cpu_report, cpu_speed, machine, tidy
from benchmarks.reports.naming import OURS, published
from benchmarks.reports.program import Run
from benchmarks.reports.tidy import Origin, Row
from benchmarks.suite import apart, peak
from benchmarks.suite.cases import Setting
from benchmarks.suite.module_cases import FcmaeCase, ModelCase
from convnextv2_fast import library
from convnextv2_fast.bench import alone, worker
from convnextv2_fast.bench.worker import Turn
from tests.native.cxx import COMPILER, needs_compiler

ORIGIN = Origin("a processor, avx2, 2 threads", "2.13.0", "", "abc", True)


def row(part, provider, ms, case="convnextv2_atto-224px-forward", batch=2, **rest):
    whose, mode = published(provider)
    return Row.of(ORIGIN, part, case, whose, mode=mode, batch=batch, dtype="float32", ms=ms, **rest)


def grown(part, case, batch, ms, mode="eager"):
    return Row.of(ORIGIN, part, case, OURS, mode=mode, batch=batch, dtype="float32", ms=ms)


STEP, WGRAD = "convnextv2_tiny-224px-forward_backward", "dwconv7x7-56x56x96-wgrad"
FCMAE = "fcmae_tiny-224px-grn_batch-forward_backward"
ROWS = [
    Row.of(ORIGIN, "ceilings", "copy", "pytorch", dtype="float32", note="gb_per_s=10.0"),
    Row.of(ORIGIN, "ceilings", "gemm", "pytorch", dtype="float32", note="tflop_per_s=0.1"),
    *(
        Row.of(ORIGIN, "ceilings", "multiply_add", "registers", mode=mode, dtype="float32", note=f"tflop_per_s={rate}")
        for mode, rate in (("1 thread", 0.3), ("2 threads", 0.6))
    ),
    row("inference", "fast-cpu", 10.0, note="turns=5; roofline_share=0.5"),
    row("inference", "fast-frozen", 5.0, note="turns=5"),
    row("inference", "eager", 40.0, note="turns=5"),
    row("inference", "openvino", 15.0, note="turns=5"),
    row("neighbour", "fast-cpu", 20.0, note="turns=2"),
    row("neighbour", "openvino", 30.0, note="turns=2"),
    row("small", "fast-cpu", 2.0, "convnextv2_atto-32px-forward"),
    row("small", "openvino", 1.0, "convnextv2_atto-32px-forward"),
    row("training", "fast-cpu", 20.0, STEP),
    row("training", "compile", 50.0, STEP),
    Row.of(ORIGIN, "training", STEP, OURS, mode="accelerated timm", batch=2, dtype="amp", ms=10.0),
    Row.of(ORIGIN, "training", STEP, "timm", mode="eager", batch=2, dtype="amp", ms=30.0),
    row("pretraining", "fast-cpu", 20.0, FCMAE),
    row("pretraining", "masked-dense-compile", 60.0, FCMAE),
    row("sizes", "fast-cpu", 10.0, batch=1),
    row("sizes", "eager", 22.5, batch=1),
    *(
        Row.of(ORIGIN, "servers", "convnextv2_atto-224px-forward", OURS, mode=f"frozen, {how}", batch=1, ms=ms)
        for how, ms in (("1 caller, 1 thread", 20.0), ("1 caller, 2 threads", 10.0), ("8 callers, 2 threads", 8.0))
    ),
    row("ops", "fast-cpu", 1.0, WGRAD),
    Row.of(ORIGIN, "ops", WGRAD, "pytorch", mode="eager", batch=8, dtype="float32", ms=12.5),
    Row.of(ORIGIN, "memory", STEP, OURS, mode="eager", batch=8, dtype="float32", peak_mib=100.0),
    Row.of(ORIGIN, "memory", STEP, "upstream", mode="eager", batch=8, dtype="float32", peak_mib=550.0),
    *(grown("growth-batch", "convnextv2_atto-224px-forward", n, 2.0 * n) for n in (1, 2, 4)),
    *(grown("growth-side", f"convnextv2_atto-{side}px-forward", 1, side**2 / 1e4) for side in (128, 256)),
    grown("growth-threads", "convnextv2_tiny-224px-forward", 8, 30.0, "frozen, 1 thread"),
    grown("growth-threads", "convnextv2_tiny-224px-forward", 8, 15.0, "frozen, 2 threads"),
]


def of(part):
    return [found for found in ROWS if found.part == part]


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "rows.csv"
    tidy.write(path, [])
    return Run(ORIGIN, "2030-01-01", path, save=False)


def test_the_lead_is_over_the_fastest_peer():
    (group,) = cpu_speed.groups(of("inference"))
    assert cpu_speed.lead(group) == ("OpenVINO", 1.5)
    assert cpu_speed.lead({"eager": group["eager"]}) is None
    assert cpu_speed.lead({OURS: group[OURS]}) is None


def test_a_runtime_beside_ours_in_one_process_is_no_rival():
    rows = of("small")
    assert [found.provider for found in rows] == [OURS, "openvino"]
    assert [list(group) for group in cpu_speed.groups(rows)] == [[OURS]] and cpu_speed.of(rows, "small") == rows[:1]


def test_the_exponent_of_growth():
    assert cpu_pages.exponent({1: 3.0, 2: 6.0, 8: 24.0}) == pytest.approx(1.0)
    assert cpu_pages.exponent({100: 1.0, 200: 4.0}) == pytest.approx(2.0)


def test_the_page_has_every_part():
    text = cpu_pages.markdown(ROWS)
    for expected in (
        "a processor, avx2, 2 threads; torch 2.13.0; commit abc with uncommitted changes.",
        "| float32 | 10.0 | 100 | 300 | 600 |",
        "| ours | ours, frozen | eager | OpenVINO | fastest rival | rival ÷ ours | rival ÷ ours, frozen "
        "| share of the peak |",
        "| atto | 2 | float32 | 5.00 | 2.50 | 20.00 | 7.50 | OpenVINO | 1.50 | 3.00 | 73 % |",
        "Each provider ran alone in a process of its own, in turn; medians of 5 turns.",
        "## Inference beside a busy process\n\nMilliseconds per image. Each provider ran alone in a process of its "
        "own, in turn; medians of 2 turns.",
        "Rounds of all providers were interleaved in one process; medians. Runtimes with threads of their own (ONNX "
        "Runtime, OpenVINO) are slowed by that and are left out.",
        "| tiny | 2 | float32 | 10.00 | 25.00 |  |  | torch.compile | 2.50 |  | 445 % |",
        "| tiny | 2 | amp |  |  | 5.00 | 15.00 | timm |  | 3.00 |  |",
        "| atto | ours, frozen | 1 caller, 2 threads | 100.0 | 100 % |",
        "| atto | ours, frozen | 8 callers, 2 threads | 125.0 | 125 % |",
        "| ours | masked dense, torch.compile | masked dense, torch.compile ÷ ours | share of the roofline |",
        "| tiny | 2 | float32 | 10.00 | 30.00 | 3.00 |  |",
        "| atto | 1 | float32 | 10.00 | 22.50 | 2.25 | 18 % |",
        "| 96 | 56 | 1.00 | 12.50 | 12.5 |",
        "Eager PyTorch needs 5.5 times as much.",
        "| convnextv2_fast | 100 |",
        "Inference with atto. Twice as many images take 2.0 times as long:",
        "Inference with atto. An image with twice the side takes 4.0 times as long:",
        "| 256 | 6.6 |",
        "Inference with frozen tiny, 8 images in the batch, by number of threads:",
        "| 1 | 30 |\n| 2 | 15 |",
    ):
        assert expected in text


@needs_compiler
def test_the_peak():
    """Within what any CPU does; and two threads do about twice as much as one, not three times."""
    one, two = (peak.peak("float32", threads) for threads in (1, 2))
    assert 1e9 < one < 1e13 and two < 3 * one


@needs_compiler
@pytest.mark.parametrize("cpu", ["haswell", "skylake-avx512", "cooperlake", "sapphirerapids"])
def test_the_peak_is_of_multiply_adds(cpu, tmp_path):
    """As the compiler writes them: none is left out, none becomes an addition alone."""
    source, code = peak._SOURCE, tmp_path / "peak.s"
    command = [COMPILER, "-std=c++17", "-O2", f"-march={cpu}", "-S", "-o", str(code), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "march" in done.stderr:
        pytest.skip(f"a compiler that does not know {cpu}")
    assert done.returncode == 0, done.stderr
    text = code.read_text()
    assert len(re.findall(r"\tvfn?madd\w+ps\t", text)) == 12
    pairs = {"cooperlake": ("vdpbf16ps", 12), "sapphirerapids": ("tdpbf16ps", 4)}
    if cpu in pairs:
        name, count = pairs[cpu]
        found = text.count(f"\t{name}\t")
        assert found and found % count == 0


def test_no_peak_without_a_compiler_or_the_instruction(monkeypatch, tmp_path):
    monkeypatch.setattr(peak.shutil, "which", lambda name: None)
    assert peak.peak.__wrapped__("float32", 1) is None
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nfor program; do :; done\nwhile [ "$1" != -o ]; do shift; done\n'
                        'printf "#!/bin/sh\\nexit 3\\n" > "$2"; chmod +x "$2"\n')  # fmt: skip
    compiler.chmod(0o755)
    monkeypatch.setattr(peak.shutil, "which", lambda name: str(compiler))
    assert peak.peak.__wrapped__("bfloat16", 1) is None


@pytest.mark.parametrize("part", cpu_pages.PARTS)
def test_a_part_may_be_missing(part):
    text = cpu_pages.markdown([found for found in ROWS if found.part != part])
    assert text.startswith("# CPU report") and len(text) < len(cpu_pages.markdown(ROWS))


def test_the_plot():
    pytest.importorskip("matplotlib")
    drawn = cpu_pages.figure([*of("inference"), *of("training")])
    assert [len(axes.patches) for axes in drawn.axes] == [4, 2]
    assert drawn.axes[0].patches[0].get_height() == pytest.approx(200.0), "two images in 10 ms"
    half = Row.of(ORIGIN, "inference", "convnextv2_atto-224px-forward", OURS, mode="cpu", dtype="bfloat16", ms=1.0)
    assert cpu_pages.figure([half]) is None


@pytest.fixture
def no_processes(monkeypatch):
    """Workers answer in this process."""
    asked = []

    def answered(request):
        asked.append((request["task"], request["arguments"]["name"]))
        return json.loads(json.dumps(worker.answer(json.loads(json.dumps(request)))))

    monkeypatch.setattr(alone, "ask", answered)
    return asked


def test_a_group_is_measured(run, capsys, no_processes, monkeypatch):
    monkeypatch.setattr(cpu_models, "QUICK_TURN", Turn(0, 0.0, 1, 0.0))
    case = ModelCase("atto", 2, Setting("cpu", "float32", True), resolution=32, classes=10)
    names = ("fast-torch", "fast-frozen", "eager", "fast-cuda", "compile")
    cpu_models.group(run, "inference", case, names, True)
    rows = tidy.read(run.path)
    assert [(row.provider, row.mode) for row in rows] == [(OURS, "torch"), (OURS, "frozen"), ("upstream", "eager")]
    for found in rows:
        assert (found.case, found.batch, found.dtype) == ("convnextv2_atto-32px-forward", 2, "float32")
        assert found.ms > 0 and found.rel_error < 1e-4 and float(found.notes["roofline_share"]) > 0
        assert found.notes["turns"] == "2"
    assert "fast-cuda: skipped: " in capsys.readouterr().out, "what cannot run is told, and is no row"
    assert [task for task, _ in no_processes] == ["check"] * 4 + ["time"] * 6, "a quick group compiles nothing"


def test_a_wrong_result_gets_no_row(run, capsys, no_processes, monkeypatch):
    monkeypatch.setattr(cf, "freeze", lambda model: lambda x: 1.01 * model(x))
    case = ModelCase("atto", 1, Setting("cpu", "float32", True), resolution=32, classes=10)
    cpu_models.group(run, "inference", case, ("fast-frozen",), True)
    assert "fast-frozen: failed: " in capsys.readouterr().out and tidy.read(run.path) == []
    assert no_processes == [("check", "fast-frozen")]


@pytest.mark.parametrize(
    "case",
    [
        ModelCase("atto", 2, Setting("cpu", "amp"), True, resolution=32, classes=10),
        FcmaeCase("atto", 2, Setting("cpu", "float32", True), resolution=64, init="upstream"),
    ],
    ids=repr,
)
def test_a_case_is_the_same_in_another_process(case):
    again = apart.cooked(json.loads(json.dumps(apart.recipe(case))))
    assert (again.name, again.what, again.setting) == (case.name, case.what, case.setting)
    assert {name: value.sum() for name, value in again.state.items()} == {n: v.sum() for n, v in case.state.items()}


def test_the_reference_is_computed_once(no_processes, monkeypatch):
    computed, reference = [], cf.reference.convnextv2
    monkeypatch.setattr(cf.reference, "convnextv2", lambda *args: computed.append(1) or reference(*args))
    case = ModelCase("atto", 1, Setting("cpu", "float32", True), resolution=32, classes=10)
    found = apart.measure_apart(case, ("eager", "channels_last"), turns=1, turn=Turn(0, 0.0, 1, 0.0))
    assert all(outcome.status == "ok" for outcome in found.values()) and computed == [1]


def test_servers_are_measured(run, monkeypatch, no_processes):
    """A provider that fails its check serves nobody."""
    served = []

    def throughput(contender, shared, **how):
        served.append((contender.arguments["name"], how["processes"], how["threads"], how["callers"]))
        return 100.0 * how["processes"] * how["callers"]

    monkeypatch.setattr(cpu_models, "SERVERS", ("fast-torch", "nobody"))
    monkeypatch.setattr(alone, "throughput", throughput)
    monkeypatch.setattr(cpu_models, "ModelCase", lambda *args: ModelCase(*args, resolution=32, classes=10))
    cpu_models.servers(run, True)
    assert served == [("fast-torch", *how) for how in ((1, 1, 1), (2, 2, 1), (1, 1, 8))]
    rows = tidy.read(run.path)
    assert {row.mode: row.ms for row in rows}["torch, 2 processes of 2 threads"] == 5.0


@pytest.mark.skipif(library.why_not("cpu") is not None, reason="the CPU kernels are not built")
def test_the_weight_gradient_is_measured(run, monkeypatch):
    monkeypatch.setattr(cpu_report, "PLANES", ((8, 7),))
    monkeypatch.setattr(cpu_report, "LIMITS", {"rounds": 1, "warmup": 0})
    cpu_report.weight_gradient(run, True)
    rows = tidy.read(run.path)
    assert [(row.provider, row.mode) for row in rows] == [(OURS, "cpu"), ("pytorch", "eager")]
    assert {(row.case, row.batch) for row in rows} == {("dwconv7x7-7x7x8-wgrad", 8)}


def test_memory_is_that_of_the_process():
    cpu_report.reset_peak()
    before = cpu_report.memory("VmHWM")
    with mmap.mmap(-1, 64 << 20) as block:  # torch might reuse what it has resident already
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert cpu_report.memory("VmHWM") - before > 60 << 20


def test_a_run_cut_short_leaves_what_it_had(tmp_path, monkeypatch):
    def measured(run, quick):
        for found in of("memory"):
            run.add("memory", found.case, found.provider, mode=found.mode, batch=8, peak_mib=found.peak_mib)

    def broken(run, quick):
        run.add("growth-batch", "a", OURS, ms=1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "origin", lambda **_: ORIGIN)
    monkeypatch.setattr(cpu_report, "PARTS", {"memory": measured, "growth": broken})
    with pytest.raises(KeyboardInterrupt):
        cpu_report.main(["--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.csv")
    assert [found.part for found in tidy.read(path)] == ["memory", "memory", "growth-batch"]
    cpu_report.main(["--out", str(tmp_path), "--only", "memory"])
    (page,) = tmp_path.glob("*.md")
    assert "5.5 times as much" in page.read_text() and "growth" not in path.read_text()
