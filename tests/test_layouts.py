"""Layouts: rows to plane and back, order, coarsening, and what they refuse."""

import pytest
import torch

from convnextv2_fast import ops
from convnextv2_fast.errors import UnsupportedInputError
from convnextv2_fast.layouts import DenseLayout, PatchLayout, SiteLayout, SparseTensor
from convnextv2_fast.testing import layout_for

KINDS = ["rows", "patch", "ragged", "site"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 1), (0, 2, 2), (3, 2, 5)], ids=str)
def test_round_trip(kind, shape):
    layout = layout_for(kind, *shape)
    x = torch.randn(layout.rows, 5)
    plane = layout.to_dense(x)
    assert plane.shape == (*layout.shape, 5)
    assert torch.equal(layout.from_dense(plane), x)
    site_map = layout.site_map
    assert (site_map >= 0).sum() == layout.rows and not plane[site_map < 0].any()
    per_sample = layout.rows_per_sample
    counts = [per_sample] * shape[0] if isinstance(per_sample, int) else per_sample.tolist()
    assert sum(counts) == layout.rows
    assert layout.coordinates[:, 0].tolist() == [n for n, c in enumerate(counts) for _ in range(c)]
    for row, (n, y, z) in enumerate(layout.coordinates.tolist()):
        assert site_map[n, y, z] == row


def test_patch_rows_are_patch_major():
    layout = PatchLayout.from_mask(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), 2)
    assert layout.coordinates[:, 1:].tolist() == [[0, 2], [0, 3], [1, 2], [1, 3], [2, 0], [2, 1], [3, 0], [3, 1]]
    assert layout.slots.tolist() == [[[-1, 0], [1, -1]]]
    assert (layout.rows, layout.rows_per_sample, layout.kept) == (8, 8, 2)


def test_a_known_count_gives_the_same_layout():
    mask = (torch.argsort(torch.rand(4, 12), dim=1) >= 5).float()
    a, b = (PatchLayout.from_mask(mask, 4, grid=(3, 4), kept=kept) for kept in (None, 5))
    assert torch.equal(a.index, b.index) and a.rows_per_sample == b.rows_per_sample == 80


@pytest.mark.parametrize("kind", KINDS)
def test_coarsening_keeps_a_site_when_any_child_is_active(kind):
    layout = layout_for(kind, 2, 3, 4)
    coarse, children = layout.coarsen(2)
    plane = (layout.site_map >= 0).float().unsqueeze(1)
    if kind != "rows":  # the dense convolution floors, the sparse one keeps a ragged edge
        plane = torch.nn.functional.pad(plane, (0, plane.shape[3] % 2, 0, plane.shape[2] % 2))
    want = torch.nn.functional.max_pool2d(plane, 2).bool().squeeze(1)
    assert torch.equal(coarse.site_map >= 0, want)
    if children is not None:
        position = layout.coordinates
        for row, kids in zip(coarse.coordinates.tolist(), children.tolist(), strict=True):
            for tap, kid in enumerate(kids):
                if kid >= 0:
                    assert position[kid].tolist() == [row[0], 2 * row[1] + tap // 2, 2 * row[2] + tap % 2]


def test_patches_coarsen_without_a_table_until_they_are_one_site():
    layout = PatchLayout.from_mask(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), 2)
    once, children = layout.coarsen(2)
    assert isinstance(once, PatchLayout) and once.s == 1 and children is None
    twice, children = once.coarsen(2)
    assert isinstance(twice, SiteLayout) and twice.rows == 1 and children.tolist() == [[0, -1, -1, 1]]


def test_sparse_tensor():
    layout = DenseLayout(1, 2, 3)
    x = SparseTensor(torch.randn(6, 4), layout)
    assert len(x) == 6 and x.shape == (6, 4) and x.C.tolist()[4] == [0, 1, 1]
    dense = x.dense()[0]
    assert dense.shape == (1, 4, 2, 3) and dense.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PatchLayout.from_mask(torch.zeros(2, 5), 8), r"mask of shape \(2, 5\) does not cover"),
        (lambda: PatchLayout.from_mask(torch.zeros(2, 6), 8, grid=(2, 2)), r"does not cover a patch grid of \(2, 2\)"),
        (lambda: SiteLayout.from_mask(torch.zeros(2, 5)), r"\[N, H, W\] map"),
        (lambda: SiteLayout.from_coordinates(torch.tensor([[0, 0, 9]]), (1, 4, 4)), "outside"),
        (lambda: SiteLayout.from_coordinates(torch.tensor([[0, 1, 1], [0, 1, 1]]), (1, 4, 4)), "listed twice"),
        (lambda: SiteLayout.from_coordinates(torch.zeros(3, 2).long(), (2, 4, 4)), r"\[T, 3\] .* got \(3, 2\)"),
        (lambda: SiteLayout.from_coordinates(torch.zeros(3, 3), (2, 4, 4)), r"integer .* torch.float32"),
        (lambda: SiteLayout.from_coordinates(torch.tensor([[-1, 0, 0]]), (2, 4, 4)), "outside"),
        (lambda: DenseLayout(1, 2, 2).to_dense(torch.zeros(3, 1)), r"expected \[4, C\] rows, got \(3, 1\)"),
        (lambda: DenseLayout(1, 2, 2).from_dense(torch.zeros(1, 2, 3, 1)), "expected"),
        (lambda: SiteLayout.from_mask(torch.ones(1, 2, 2)).from_dense(torch.zeros(1, 3, 2, 1)), "channels-last"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UnsupportedInputError, match=message):
        call()


def test_the_site_map_is_made_once_and_serves_training_later():
    layout = SiteLayout.from_mask(torch.rand(2, 5, 4) < 0.6)
    with torch.inference_mode():
        site_map = layout.site_map
    assert layout.site_map is site_map and not site_map.is_inference()


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_another_device(kind):
    """Every tensor moves, the cached site map too; what is there already stays the same object."""
    layout = layout_for("site" if kind == "mixed" else kind, 2, 3, 4)
    if kind == "mixed":
        layout = SiteLayout.from_coordinates(layout.coordinates.flip(0), layout.shape)
    site_map = layout.site_map
    assert layout.to("cpu") is layout and DenseLayout(1, 2, 3).to("meta") == DenseLayout(1, 2, 3)
    with torch.inference_mode():
        moved = layout.to("meta")
    assert type(moved) is type(layout) and (moved.shape, moved.rows, moved.kind) == (
        layout.shape,
        layout.rows,
        layout.kind,
    )
    tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
    assert tensors.keys() >= ({"_site_map"} if kind == "rows" else {"_site_map", "index"})
    assert all(value.is_meta and not value.is_inference() for value in tensors.values())
    assert layout.index.device.type == "cpu" and layout.site_map is site_map
    assert moved.site_map.shape == layout.shape and moved.site_map is moved._site_map


def test_a_compiled_function_does_not_keep_its_site_map():
    layout = SiteLayout.from_mask(torch.rand(2, 5, 4) < 0.6)
    compiled = torch.compile(lambda t: t.site_map + 0, fullgraph=True, backend="eager")
    assert torch.equal(compiled(layout), layout.site_map)
    fresh = SiteLayout.from_mask(torch.rand(2, 5, 4) < 0.6)
    compiled(fresh)
    assert "_site_map" not in vars(fresh)
    torch._dynamo.reset()


def test_rows_in_any_order():
    """As sparse libraries hold them: samples may be mixed; only what works per sample then refuses."""
    shape, active = (3, 5, 4), torch.rand(3, 5, 4) < 0.6
    ordered = SiteLayout.from_mask(active)
    order = torch.randperm(ordered.rows)
    mixed = SiteLayout.from_coordinates(ordered.coordinates[order].int(), shape)
    assert torch.equal(mixed.coordinates, ordered.coordinates[order])
    x, kernel, bias, g = (torch.randn(*s) for s in ((ordered.rows, 6), (49, 6), (6,), (ordered.rows, 6)))
    leaves = [[t.clone().requires_grad_() for t in (x, kernel, bias)] for _ in range(2)]
    ops.sparse_dwconv(*leaves[0], layout=ordered).backward(g)
    rows = leaves[1][0][order]
    y = ops.sparse_dwconv(rows, *leaves[1][1:], layout=mixed)
    torch.testing.assert_close(y, ops.sparse_dwconv(*leaves[0], layout=ordered)[order])
    y.backward(g[order])
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    u = ops.dwconv_layer_norm(x[order], kernel, bias, bias, bias, layout=mixed)
    torch.testing.assert_close(u, ops.dwconv_layer_norm(x, kernel, bias, bias, bias, layout=ordered)[order])
    coarse, children = mixed.coarsen(2)
    assert torch.equal(coarse.index, ordered.coarsen(2)[0].index)
    assert torch.equal(order[children.clamp_min(0)][children >= 0], ordered.coarsen(2)[1][children >= 0])
    with pytest.raises(UnsupportedInputError, match="sort the rows"):
        mixed.rows_per_sample  # noqa: B018
    assert torch.equal(SiteLayout.from_coordinates(ordered.coordinates, shape).rows_per_sample, active.sum((1, 2)))
