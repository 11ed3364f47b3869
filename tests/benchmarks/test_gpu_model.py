"""The model of GPU time: its arithmetic, what binds it to the sources, and how near it comes to what was measured."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.kernel_model import __main__ as gpu_model
from benchmarks.kernel_model import (
    block,
    chips,
    comparison,
    depthwise,
    host,
    host_tables,
    measured,
    models,
    ops,
    pretraining,
    tables,
)
from benchmarks.kernel_model.depthwise import Plane
from benchmarks.kernel_model.kernel import Kernel, total
from benchmarks.kernel_model.passes import COUNTS, DTYPES, MODES, Pass
from benchmarks.reports import tidy
from benchmarks.rivals.sizes import SIZES
from benchmarks.suite import problems
from convnextv2_fast.ops._mlp_grn import cuda
from tests.static_figures import figures

ROOT = Path(__file__).parents[2]
H100, H200 = chips.find("h100"), chips.find("h200")
BFLOAT16, AMP = ops.Setting(H100, amp=False), ops.Setting(H100, amp=True)


def ms(*args, **named):
    return 1e3 * Pass(*args, **named).total().seconds


# Against measurements -----------------------------------------------------------------------------------------------


def test_the_committed_forward_pass_is_reproduced():
    this = Pass("h100", "tiny", 128, provider="composed")
    row = this.rows()[0]
    assert not measured.has_host(row) and row.ms == pytest.approx(7.998, abs=1e-3)
    assert ms("h100", "tiny", 128, provider="composed") == pytest.approx(row.ms, rel=0.05)


def passes(host):
    """Rows of whole passes on the H100 that the constants were fitted on, with the host's time in them or without."""
    found = (compared for this, compared in comparison.compared_passes() if this.chip is H100)
    return [compared for compared in found if measured.has_host(compared.row) == host]


def test_passes_that_were_replayed_as_graphs_are_within_a_tenth():
    found = passes(host=False)
    assert {(c.row.batch, c.row.dtype) for c in found} >= {(128, "bfloat16"), (1, "bfloat16"), (128, "amp")}
    assert all(c.ratio == pytest.approx(1, abs=0.1) for c in found), [(c.row.key, c.ratio) for c in found]


def test_no_step_with_the_host_in_it_is_faster_than_its_kernels():
    found = passes(host=True)
    assert len(found) >= 4 and all(c.ratio < 1 for c in found)


def test_the_compiled_peer_is_reproduced_though_nothing_was_fitted_to_it():
    this = Pass("h100", "tiny", 128, provider="compile")
    (row,) = this.rows()
    assert row.provider == "timm" and ms("h100", "tiny", 128, provider="compile") == pytest.approx(row.ms, rel=0.05)


OPS = {(c.row.case, c.row.mode, c.row.batch): c for c in comparison.compared_ops(H100)}
GRAPHS = [key for key in OPS if key[1] == "cuda graph"]


@pytest.mark.parametrize("key", GRAPHS, ids=lambda key: key[0])
def test_ops_that_were_replayed_as_graphs(key):
    assert OPS[key].ratio == pytest.approx(1, abs=0.2 if "to96k4" in key[0] else 0.1)


def test_all_kinds_of_rows_are_compared():
    assert len(GRAPHS) >= 11
    assert sum(case.startswith("dwconv7x7") for case, *_ in OPS) >= 16
    for stage in ("56x56x96", "28x28x192", "14x14x384", "7x7x768"):
        assert OPS[f"dwconv7x7-{stage}-backward", "cuda-mma", 128].ratio == pytest.approx(1, abs=0.06)


# Arithmetic ---------------------------------------------------------------------------------------------------------


def test_a_kernels_time():
    kernel = Kernel("k", moved=H100.copy * 1e-3, flops=H100.gemm * 2e-3, special=H100.special * 1e-3, share=1.0)
    assert kernel.seconds(H100) == pytest.approx(2e-3 + 0.3 * 2e-3 + 2e-6)
    assert replace(kernel, waiting=5e-3, fixed=1e-3, launches=3).seconds(H100) == pytest.approx(6e-3 + 6e-6)
    assert Kernel("nothing", 0).seconds(H100) == pytest.approx(2e-6)


@pytest.mark.parametrize("field", ["moved", "flops", "instructions", "special", "waiting", "fixed", "launches"])
def test_more_of_anything_is_never_faster(field):
    for base in (Kernel("k", 1e8), Kernel("k", 1e6, flops=1e11), Kernel("k", 1e7, instructions=1e9, waiting=1e-5)):
        more = replace(base, **{field: getattr(base, field) * 3 or 1})
        assert more.seconds(H100) >= base.seconds(H100)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("provider", "mode"), COUNTS)
def test_every_size_in_every_pass(size, provider, mode):
    for chip in chips.CHIPS:
        for dtype in DTYPES[mode]:
            this = Pass(chip, size, 8, mode, dtype, provider)
            found = this.total()
            assert all(math.isfinite(v) and v > 0 for v in vars(found).values())
            steps = this.steps()
            assert found.seconds == pytest.approx(sum(step.seconds(this.chip) for step in steps))
            assert all(kernel.moved >= 0 and kernel.launches > 0 for step in steps for kernel in step.kernels)


@pytest.mark.parametrize(("provider", "mode"), COUNTS)
def test_time_grows_with_the_batch_and_not_faster_than_it(provider, mode):
    batches = (1, 2, 16, 64, 128, 256)
    times = [ms("h100", "tiny", batch, mode, provider=provider) for batch in batches]
    assert times == sorted(times)
    for (few, short), (many, long) in itertools.pairwise(zip(batches, times, strict=True)):
        assert long / short <= many / few
    assert times[-1] / times[-2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_larger_takes_longer(mode):
    by_size = [ms("h100", size, 32, mode) for size in SIZES]
    assert by_size == sorted(by_size)
    by_edge = [ms("h100", "atto", 32, mode, resolution=edge) for edge in (64, 224, 384)]
    assert by_edge == sorted(by_edge)
    assert ms("h200", "tiny", 64, mode) < ms("h100", "tiny", 64, mode)


def test_operations_are_those_of_the_model():
    """Products alone: 16 T C^2 a block forward, 40 backward, and the patch convolutions."""
    expected = 0
    for stage in models.stages("tiny", 2, 224):
        rows, c = stage.plane.rows, stage.plane.channels
        expected += stage.depth * 16 * rows * c * c + 2 * rows * stage.k**2 * stage.before * c
    head = 2 * 2 * 768 * 1000
    assert total(models.forward(BFLOAT16, "tiny", 2, 224), H100).flops == expected + head
    plane = Plane(2, 14, 384)
    backward = ops.mlp_grn_backward(AMP, plane.rows, 2, 384)
    assert total([backward], H100).flops == 40 * plane.rows * 384**2
    assert total(block.backward(AMP, plane, 2), H100).flops == 40 * plane.rows * 384**2


def test_bytes_of_a_block_in_units():
    """In units of rows x channels elements: 21 forward where the scale is folded, 29 where not, 50 backward."""
    for plane, units in ((Plane(64, 56, 96), 21), (Plane(64, 14, 384), 29)):
        unit = plane.elements * ops.WIDTH
        args = (BFLOAT16, plane.rows, 64, plane.channels)
        assert total([ops.mlp_grn(*args)], H100).moved / unit == pytest.approx(units, rel=0.06)
        assert total([ops.mlp_grn_backward(*args)], H100).moved / unit == pytest.approx(50, rel=0.06)


PLANES = {"folded": Plane(64, 56, 96), "applied": Plane(64, 14, 384), "sparse": Plane(64, 56, 96, 19 / 49, 8)}


def of_block(setting, plane):
    """Totals of a block's two directions, composed and as one operator."""
    stage, composed = models.Stage(0, 1, plane, 0), replace(setting, composed=True)
    return [
        [total(f(of, stage, 64), H100) for f in (models.block, models.block_backward)] for of in (composed, setting)
    ]


@pytest.mark.parametrize("case", PLANES)
@pytest.mark.parametrize("setting", [BFLOAT16, AMP], ids=["bfloat16", "amp"])
def test_one_operator_for_a_block_launches_and_moves_less(setting, case):
    plane = PLANES[case]
    composed, one = of_block(setting, plane)
    assert [found.launches for found in one] == ([8, 12] if plane.patch else [9, 13])
    assert all(after.launches < before.launches for before, after in zip(composed, one, strict=True))
    assert all(after.flops == before.flops for before, after in zip(composed, one, strict=True))
    saved = (composed[1].moved - one[1].moved) / (plane.elements * ops.WIDTH)
    assert saved == pytest.approx(2, abs=0.5)  # the residual's gradient alone takes 1 u instead of 3; beside it, sums


def test_gelus_instructions_are_a_parameter():
    def seconds(count):
        this = Pass("h200", "tiny", 64, "training", instructions=count)
        return this.total().seconds

    few, counted, many = seconds(20.0), seconds(None), seconds(200.0)
    assert few <= counted < many
    assert seconds(0.0) <= few  # special functions are what remains
    assert ops.EARLIER.activate >= ops.COUNTED.activate


def test_fcmae_reads_the_patches_that_are_there():
    stages = models.stages("tiny", 64, 224, 19 / 49, sparse=True)
    assert [stage.plane.rows for stage in stages] == [64 * 19 * edge**2 for edge in (8, 4, 2, 1)]
    assert depthwise.computed_sites(stages[0].plane) == pytest.approx(stages[0].plane.rows)  # strips within a patch
    last = stages[3].plane
    assert 3 * last.rows < depthwise.computed_sites(last) < 64 * 8 * 8
    assert int(49 * pretraining.KEPT) == int(49 * problems.KEEP)


# What the sources say -----------------------------------------------------------------------------------------------


def test_the_tensor_cores_kernels_are_cut_as_in_the_sources():
    text = "".join(path.read_text() for path in sorted((ROOT / "csrc/cuda/dwconv").glob("mma_*.cuh")))
    found = {name: int(value) for name, value in re.findall(r"\b(kMma\w+|kTapSlots) = (\d+)\b", text)}
    assert found["kMmaRows"] == depthwise.ROWS and found["kMmaColumns"] == depthwise.COLUMNS
    assert found["kMmaChannels"] == depthwise.CHANNELS and found["kMmaResident"] == depthwise.RESIDENT
    assert (found["kMmaSlots"], found["kTapSlots"]) == (depthwise.CONVOLUTION_SLOTS, depthwise.TAPS_SLOTS)
    assert depthwise.rounds_and_blocks(Plane(128, 56, 96), 16, H100) == (11, 41)


def test_the_scale_is_folded_where_the_op_folds_it():
    for rows, groups, c in ((3136 * 64, 64, 96), (196 * 64, 64, 384), (77824, 1, 96), (1216, 1, 768), (49, 1, 40)):
        assert ops.folds(rows, groups, c) == cuda.folds(rows // groups, c)


# The tool -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--chip", "h300"], "unknown chip 'h300': choose one of h100, h200"),
        (["--model", "giant"], "unknown model 'giant': choose one of atto"),
        (["--batch", "0"], "batch must be 1 or more"),
        (["--mode", "fcmae", "--resolution", "100"], "FCMAE wants a multiple of 32"),
        (["--mode", "fcmae", "--provider", "compile"], "compile fcmae is not counted"),
        (["--provider", "composed", "--mode", "training", "--dtype", "bfloat16"], "training is counted in amp"),
        (["--mode", "training", "--dtype", "bfloat16"], "training is counted in amp, not in bfloat16"),
    ],
)
def test_one_clear_error(arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_model.main(arguments)
    assert stopped.value.code == 2
    assert f"error: {says}" in capsys.readouterr().err


def test_the_table_says_what_was_measured_and_how(capsys):
    composed = ["--provider", "composed"]
    assert gpu_model.main(["--batch", "128", *composed]) == 0
    out = capsys.readouterr().out
    assert "predicted: 8." in out and "measured: 8.00 ms (cuda graph); predicted/measured 1.0" in out
    assert re.search(r"stage 3 +mlp_grn forward +all of these .* a call, batch \d+ ", out)
    assert gpu_model.main(["--batch", "64", "--mode", "training", *composed]) == 0
    assert tables.HOST in capsys.readouterr().out
    assert gpu_model.main(["--chip", "h200", "--batch", "3"]) == 0
    assert "measured: nothing" in capsys.readouterr().out


def test_lines_add_up_to_the_total():
    this = Pass("h100", "tiny", 64, "training")
    lines = [line for line in tables.table(this)[1:] if line[2] != "all of these"]
    *kernels, last = lines
    assert sum(int(line[3]) for line in kernels) == int(last[3]) == this.total().launches
    assert sum(float(line[7]) for line in kernels) == pytest.approx(1e3 * this.total().seconds, rel=0.01)


def test_the_page_labels_what_nobody_measured():
    text = gpu_model.markdown()
    part = text[text.index("predicted only") : text.index("### Steps")]
    rows = [line for line in part.splitlines() if line.startswith("| NVIDIA")]
    assert len(rows) >= 8 and all(line.endswith("predicted |") for line in rows)


def test_without_results_there_is_a_prediction_all_the_same(tmp_path, monkeypatch):
    assert measured.rows(tmp_path) == ()
    row = tidy.Row.of(tidy.Origin("NVIDIA H100 80GB HBM3", "2"), "ops", "layer_norm-7x7x8-forward", "x", ms=1.0)
    tidy.write(tmp_path / "h-2026-01-01.csv", [row])
    tidy.write(tmp_path / "h-2026-01-02.csv", [replace(row, ms=2.0)])
    measured.rows.cache_clear()
    assert [found.ms for found in measured.rows(tmp_path)] == [2.0]  # the newest of a key
    monkeypatch.setattr(measured, "rows", lambda: ())
    assert "measured: nothing" in tables.text(Pass("h100", "tiny", 128))
    with pytest.raises(ValueError, match="no committed result has dwconv7x7"):
        Pass("h100", "tiny", 128, provider="compile").total()


def test_instructions_and_launches_are_those_counted_in_the_code():
    """The static figures, which tests hold against the machine code and the dispatcher."""
    found = {(f.name, f.unit): f.value for f in figures.read().figures}
    for kernel, counted in (("activate", ops.ACTIVATE), ("products", ops.PRODUCTS), ("backward", ops.BACKWARD)):
        name = f"mlp_{kernel}_kernel<BFloat16, 8>, sm_90"
        assert counted == pytest.approx(found[name, "instructions per element"], abs=0.06)
        assert found[name, "XU operations per element"] == ops.SPECIAL


STEPS = {
    "convnextv2_tiny, inference, bfloat16 parameters": ("forward", "bfloat16", 227, 179),
    "convnextv2_tiny, inference, autocast with float32 parameters": ("forward", "amp", 264, 184),
    "convnextv2_tiny, training step, autocast with float32 parameters": ("training", "amp", 749, 467),
    "convnextv2_tiny, FCMAE step, autocast with float32 parameters": ("fcmae", "amp", 804, 561),
}


@pytest.mark.parametrize("name", STEPS)
def test_launches_of_whole_steps_are_those_counted_at_the_dispatcher(name):
    """At 8 images, as they are counted there: the composed block's launches depend on it."""
    mode, dtype, *counted = STEPS[name]
    for provider, launches in zip(("composed", "ours"), counted, strict=True):
        found = Pass("h100", "tiny", 8, mode, dtype, provider).total().launches
        assert found == pytest.approx(launches, rel=0.03 if mode == "fcmae" else 0.01)
    table = {(f.name, f.unit): f.value for f in figures.read().figures}
    assert table[name, "launches"] == counted[1]


# The host's part ----------------------------------------------------------------------------------------------------


def test_the_hosts_time_is_a_sum():
    this = Pass("h100", "tiny", 64, "training")
    count = host.launches(this)
    assert (count.blocks, count.all - count.elsewhere) == (18, 18 * 22)
    eager = 18 * host.TRAINING["ours"] + count.elsewhere * host.ELSEWHERE + count.all * host.LAUNCH
    assert host.seconds(this, "eager", 1.0) == pytest.approx(eager * 1e-6)
    assert host.seconds(this, "graphed", 1.0) == pytest.approx(1e-5)
    fcmae = host.launches(Pass("h100", "tiny", 64, "fcmae"))
    assert (fcmae.blocks, fcmae.all - fcmae.elsewhere) == (19, 18 * 20 + 3 + 22)


@pytest.mark.parametrize("chip", chips.CHIPS)
@pytest.mark.parametrize("slowdown", [1.0, host.SLOWDOWN])
def test_a_step_takes_as_long_as_the_slower_of_host_and_kernels(chip, slowdown):
    for way in host.WAYS:
        for this, before, after in host_tables.both(chip, way, slowdown, None):
            assert before.ms == max(before.kernels_ms, before.host_ms)
            assert after.kernels_ms < before.kernels_ms and after.ms < before.ms
            assert after.kernels_ms == pytest.approx(1e3 * this.total().seconds)
            assert after.host_ms == pytest.approx(slowdown * 1e3 * host.seconds(this, way, 1.0))
            if way == "graphed":
                assert after.ms == after.kernels_ms and after.host_ms == before.host_ms
    found = [[after.ms for _, _, after in host_tables.both(chip, way, slowdown, None)] for way in host.WAYS]
    assert all(eager >= compiled >= graphed for eager, compiled, graphed in zip(*found, strict=True))


def test_steps_that_were_launched_one_by_one_are_near_what_is_predicted():
    """Nothing but the slowdown of their host was chosen by them; two processes of a day differ by 40 %."""
    found = host_tables.checked()
    assert len(found) >= 4
    assert all(0.85 < predicted / seen < 1.7 for _, predicted, seen in found), found


def test_the_hosts_figures_are_those_of_the_table():
    """In bare autograd.Functions, which is how far the figures of two machines can be compared."""
    table = {(f.name, f.unit): f.value for f in figures.read().figures}
    bare = table["a bare autograd.Function, forward and backward", "µs"]
    for name, known in (
        ("a block, inference, bfloat16 parameters", host.INFERENCE),
        ("a block, forward and backward, autocast with float32 parameters", host.TRAINING),
    ):
        ratios = [table[name, "µs"] / bare * host.BARE / us for us in known.values()]
        assert any(1 / 1.6 < ratio < 1.6 for ratio in ratios), (name, ratios)


@pytest.mark.parametrize(
    ("way", "provider", "says"), [("soon", "ours", "unknown way"), ("eager", "compile", "not for")]
)
def test_what_the_host_is_not_counted_for(way, provider, says):
    with pytest.raises(ValueError, match=says):
        host.seconds(Pass("h100", "tiny", 8, provider=provider), way)


def test_the_command_prints_steps_with_the_host(capsys):
    assert gpu_model.main(["--host", "--slowdown", "2", "--instructions", "20"]) == 0
    out = capsys.readouterr().out
    assert out.count("| graphed |") == 8 and "predicted, not measured on a GPU" in out and "takes 2 times" in out
    text = gpu_model.markdown()
    assert text.count("Predicted, not measured on a GPU.") == 2
    lines = [line for line in text.splitlines() if "| eager |" in line]
    assert len(lines) == 8 + 4 and len({line.count("|") for line in lines}) == 2
