"""The order of the automatic choice on a GPU: the table, its look-up, and how a report's measurements enter it."""

import pytest

from benchmarks.reports import naming, tidy
from benchmarks.reports.tidy import Origin, Row
from convnextv2_fast import dispatch, preferences
from convnextv2_fast.ops._shared import cuda
from convnextv2_fast.preferences import ANY, DWCONV_KERNEL, Preference
from convnextv2_fast.spec import Implementation, Spec, always
from convnextv2_fast.testing import KERNEL_OPS
from tools.kernels import prefer


def test_every_op_has_a_prior_and_only_known_names():
    table = preferences.read()
    assert {row.op for row in table if row.family == ANY and row.layout == ANY} == {*KERNEL_OPS, DWCONV_KERNEL, "block"}
    for row in table:
        kernel = row.op == DWCONV_KERNEL
        assert row.backend in (prefer.KERNELS if kernel else {i.backend for i in dispatch.implementations(row.op)})
        assert row.source.startswith("prior: ") or row.family != ANY
    assert len({row[:3] for row in table}) == len(table)


def test_the_most_exact_row_wins(monkeypatch):
    rows = [
        Preference("grn", ANY, ANY, "triton", "prior: a"),
        Preference("grn", ANY, "sm_90", "cuda", "b"),
        Preference("grn", "patch", "sm_90", "triton", "c"),
    ]
    monkeypatch.setattr(preferences, "_first", {(r.family, r.op, r.layout): r for r in rows})
    for layout, family, source in (("dense", "sm_80", "prior: a"), ("dense", "sm_90", "b"), ("patch", "sm_90", "c")):
        assert preferences.find("grn", layout, family).source == source
    assert preferences.find("other", "dense", "sm_90") is None


def spec(device):
    return Spec("grn", device, None, None, 8, "dense", False)


def test_order_on_a_gpu_and_elsewhere(monkeypatch):
    row = Preference("grn", ANY, ANY, "triton", "prior: a")
    monkeypatch.setattr(preferences, "_first", {(ANY, "grn", ANY): row})
    listed = [Implementation(name, None, always) for name in ("cuda", "triton", "torch")]
    assert [c.backend for c in preferences.order(spec("cuda"), listed)] == ["triton", "cuda", "torch"]
    assert [c.backend for c in preferences.order(spec("cpu"), listed)] == ["cuda", "triton", "torch"]


def test_a_broken_table_is_named(tmp_path):
    table = tmp_path / "broken.tsv"
    table.write_text("op\tlayout\tfamily\tbackend\tsource\ngrn\tdense\n")
    with pytest.raises(ValueError, match=r"broken.tsv: a row has 5 columns, this has 2: grn"):
        preferences.read(table)


def test_the_convolutions_kernel_is_chosen_by_the_table(monkeypatch):
    monkeypatch.setattr(cuda, "DWCONV", "auto")
    for family, kernel in (("sm_80", "mma"), ("sm_90", "fma")):
        monkeypatch.setattr(preferences, "_kernels", {})
        monkeypatch.setattr(preferences, "family", lambda device=None, family=family: family)
        rows = [
            Preference(DWCONV_KERNEL, ANY, ANY, "mma", "prior: a"),
            Preference(DWCONV_KERNEL, ANY, "sm_90", "fma", "b"),
        ]
        monkeypatch.setattr(preferences, "_first", {(r.family, r.op, r.layout): r for r in rows})
        assert preferences.dwconv_kernel() == kernel
        assert cuda.tensor_cores() == (kernel == "mma")
    monkeypatch.setattr(cuda, "DWCONV", "mma")
    assert cuda.tensor_cores(), "what was asked for comes before the table"


ORIGIN = Origin("NVIDIA H100 80GB HBM3", "2.11.0", "3.6.0", "abc", False)


def row(case, mode, ms, part="ops", provider=naming.OURS):
    return Row.of(ORIGIN, part, case, provider, mode=mode, batch=128, dtype="bfloat16", ms=ms)


def test_the_faster_backend_is_found():
    rows = [
        row("grn-1x1x8-forward", "cuda graph", 1.0),
        row("grn-1x1x8-forward", "triton graph", 2.0),
        row("grn-2x2x8-forward", "cuda graph", 4.0),
        row("grn-2x2x8-forward", "triton graph", 2.0),
        row("grn-2x2x8-forward", "cuda", 99.0),  # launched one by one: nothing to compare it with
        row("sparse_dwconv-7x7x8-forward", "cuda-fma graph", 9.0),
        row("sparse_dwconv-7x7x8-forward", "cuda-mma graph", 3.0),
        row("sparse_dwconv-7x7x8-forward", "triton graph", 1.0),
        row("mlp_grn-1x1x8-forward", "cuda graph", 3.0),
        row("layer_norm-1x1x8-forward", "cuda graph", 3.0, part="profile"),
        row("layer_norm-1x1x8-forward", "triton graph", 3.0, part="profile"),
    ]
    assert prefer.compared(rows, prefer.BACKENDS) == pytest.approx({"grn": 1.0, "sparse_dwconv": 3.0})
    new = prefer.found(rows, "r.csv")
    assert Preference("sparse_dwconv", "patch", "sm_90", "triton", "r.csv: 3.00x") in new
    assert {each.op for each in new} == {"grn", "sparse_dwconv"}, "the sparse convolution has no choice of kernels"


def test_the_faster_kernel_is_found():
    rows = [row("dwconv7x7-7x7x8-forward", f"cuda-{kernel} graph", ms) for kernel, ms in (("fma", 1.0), ("mma", 2.0))]
    assert prefer.found(rows, "r.csv") == [Preference(DWCONV_KERNEL, ANY, "sm_90", "fma", "r.csv: 2.00x")]
    rows += [row("dwconv_layer_norm-7x7x8-forward", f"cuda-{k} graph", ms) for k, ms in (("fma", 3.0), ("mma", 1.5))]
    assert prefer.found(rows, "r.csv") == [Preference(DWCONV_KERNEL, ANY, "sm_90", "mma", "r.csv: 2.00x")]


def test_new_rows_replace_those_of_the_same_family():
    new = Preference("sparse_dwconv", "patch", "sm_90", "triton", "r.csv: 3.00x")
    table = prefer.merged(preferences.read(), [new])
    assert new in table
    again = prefer.merged(table, [new._replace(backend="cuda", source="s.csv: 2.00x")])
    assert len(again) == len(table) and new not in again


def test_a_gpu_that_is_not_known_is_an_error():
    assert prefer.family("NVIDIA H200") == prefer.family("NVIDIA H100 PCIe") == "sm_90"
    assert prefer.family("NVIDIA L4") == "sm_89"
    with pytest.raises(ValueError, match="the family of 'NVIDIA X1' is not known"):
        prefer.family("NVIDIA X1")


def test_measured_rows_are_what_their_results_say():
    """Each names a committed result, and is what the result gives when it is read again."""
    for row in preferences.read():
        if not row.source.startswith("prior: "):
            name, _, _ = row.source.partition(": ")
            assert row in prefer.found(tidy.read(tidy.RESULTS / name), name)
