"""The order of the automatic choice on a GPU: the table, its look-up, and how a report's measurements enter it."""

import pytest

from benchmarks import prefer
from convnextv2_fast import dispatch, preferences
from convnextv2_fast.dispatch import Implementation, Spec
from convnextv2_fast.preferences import ANY, Preference
from convnextv2_fast.testing import ALL_OPS


def test_every_op_has_a_prior_and_only_known_names():
    table = preferences.read()
    assert {row.op for row in table if row.family == ANY and row.layout == ANY} == set(ALL_OPS)
    for row in table:
        assert row.backend in {i.backend for i in dispatch.implementations(row.op)}
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
    listed = [Implementation(name, None, dispatch.always) for name in ("cuda", "triton", "torch")]
    assert [c.backend for c in preferences.order(spec("cuda"), listed)] == ["triton", "cuda", "torch"]
    assert [c.backend for c in preferences.order(spec("cpu"), listed)] == ["cuda", "triton", "torch"]


def test_a_broken_table_is_named(tmp_path):
    table = tmp_path / "broken.tsv"
    table.write_text("op\tlayout\tfamily\tbackend\tsource\ngrn\tdense\n")
    with pytest.raises(ValueError, match=r"broken.tsv: a row has 5 columns, this has 2: grn"):
        preferences.read(table)


def row(name, backend, ms, status="ok"):
    return {"name": name, "provider": f"fast-{backend}", "ms": ms, "status": status}


def test_measurements_enter_the_table():
    report = [
        row("grn-1x1-forward-bfloat16-cuda", "cuda", 1.0),
        row("grn-1x1-forward-bfloat16-cuda", "triton", 2.0),
        row("grn-2x2-forward-bfloat16-cuda", "cuda", 4.0),
        row("grn-2x2-forward-bfloat16-cuda", "triton", 2.0),
        row("sparse_dwconv-1x1-forward-bfloat16-cuda", "cuda", 3.0),
        row("sparse_dwconv-1x1-forward-bfloat16-cuda", "triton", 1.0),
        row("mlp_grn-1x1-forward-bfloat16-cuda", "cuda", 3.0),
        row("mlp_grn-1x1-forward-bfloat16-cuda", "triton", 1.0, status="failed"),
        row("block-1x1-forward-bfloat16-cuda", "triton", 1.0),
    ]
    found = prefer.ratios(report)
    assert found == pytest.approx({"grn": 1.0, "sparse_dwconv": 3.0})
    table = prefer.merged(preferences.read(), "sm_90", found, "r.json")
    assert Preference("sparse_dwconv", "patch", "sm_90", "triton", "r.json: 3.00x") in table
    again = prefer.merged(table, "sm_90", {"sparse_dwconv": 0.5}, "s.json")
    assert len(again) == len(table)
    assert Preference("sparse_dwconv", "patch", "sm_90", "cuda", "s.json: 2.00x") in again
