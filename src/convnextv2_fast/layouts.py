"""Where the rows of `[T, C]` sit in the image plane: dense, packed patches, or any set of sites.

Every op works on rows, one per site, channels contiguous, rows of one sample adjacent. Only the depthwise convolution
looks at a layout's neighbours. The active set comes from the mask, never from values: no hash table, and, when the
number of kept patches is known, no synchronisation and static shapes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.utils._pytree
from torch import Tensor

from .errors import UnsupportedInputError

AnyLayout = TypeVar("AnyLayout", bound="Layout")


class Layout:
    """Common part of the three layouts. `shape` is `(N, H, W)`, the plane the rows live in.

    Layouts do not change: another mask is another layout. One that a captured CUDA graph uses must outlive it.
    """

    kind: str
    shape: tuple[int, int, int]
    rows: int  # T
    rows_per_sample: int | Tensor  # one number, or int64 [N] where samples differ
    index: Tensor  # int64 [T]: position of each row in the flattened [N, H, W] plane

    def _check_rows(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[0] != self.rows:
            raise UnsupportedInputError(f"{type(self).__name__}: expected [{self.rows}, C] rows, got {tuple(x.shape)}")

    def to(self: AnyLayout, device: torch.device | str) -> AnyLayout:
        """The same layout with all of its tensors on `device`, the site map included if it has been made.

        A layout that has no tensor elsewhere is returned as it is.
        """
        with torch.inference_mode(False):  # a later training step may save them for its backward
            moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        if all(value is getattr(self, name) for name, value in moved.items()):
            return self
        found = copy.copy(self)
        vars(found).update(moved)
        return found

    def to_dense(self, x: Tensor) -> Tensor:
        """Returns rows x `[T, C]` as one tensor `[N, H, W, C]` of x's dtype, zeros where inactive. Differentiable.

        Raises:
            UnsupportedInputError: x does not have this layout's T rows.
        """
        self._check_rows(x)
        n, h, w = self.shape
        return x.new_zeros(n * h * w, x.shape[1]).index_copy(0, self.index, x).view(n, h, w, x.shape[1])

    def from_dense(self, x: Tensor) -> Tensor:
        """The active sites of `[N, H, W, C]` as rows `[T, C]`. Differentiable."""
        if x.ndim != 4 or tuple(x.shape[:3]) != tuple(self.shape):
            raise UnsupportedInputError(
                f"{type(self).__name__}: expected {(*self.shape, 'C')} channels-last, got {tuple(x.shape)}"
            )
        return x.reshape(-1, x.shape[3]).index_select(0, self.index)

    @property
    def site_map(self) -> Tensor:
        """int32 `[N, H, W]`: the row of each site, -1 where inactive. Made once, as every block of a stage reads it;
        not kept where it would be part of a graph (torch.compile, CUDA graph capture)."""
        kept: Tensor | None = getattr(self, "_site_map", None)
        if kept is not None:
            return kept
        n, h, w = self.shape
        with torch.inference_mode(False):  # a later training step may save it for its backward
            flat = torch.full((n * h * w,), -1, dtype=torch.int32, device=self.index.device)
            flat[self.index] = torch.arange(self.rows, dtype=torch.int32, device=self.index.device)
            found = flat.view(n, h, w)
        if not torch.compiler.is_compiling() and not (found.is_cuda and torch.cuda.is_current_stream_capturing()):
            object.__setattr__(self, "_site_map", found)
        return found

    @property
    def coordinates(self) -> Tensor:
        """int64 `[T, 3]`: `(n, y, x)` of each row."""
        _, h, w = self.shape
        return torch.stack((self.index // (h * w), self.index // w % h, self.index % w), dim=1)

    def coarsen(self, k: int) -> tuple[Layout, Tensor | None]:
        """The layout after a stride-`k` convolution, and its children: int64 `[T', k*k]`, the rows (ky, kx order)
        that each coarse site reads, -1 where inactive; None where plain reshaping does it.

        A coarse site is active when any of its children is (MinkowskiEngine's rule)."""
        n, h, w = self.shape
        rows, cols = -(-h // k), -(-w // k)
        fine = torch.nn.functional.pad(self.site_map, (0, cols * k - w, 0, rows * k - h), value=-1)
        children = fine.view(n, rows, k, cols, k).permute(0, 1, 3, 2, 4).reshape(n, rows * cols, k * k)
        active = (children >= 0).any(dim=2).view(n, rows, cols)
        return SiteLayout.from_mask(active), children.reshape(-1, k * k)[active.flatten()].long()


@dataclass(frozen=True)
class DenseLayout(Layout):
    """All `H*W` sites of `N` samples, row-major: `[T, C]` is a view of `[N, H, W, C]`."""

    N: int
    H: int
    W: int
    kind = "dense"

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (self.N, self.H, self.W)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.N * self.H * self.W

    @property
    def rows_per_sample(self) -> int:  # type: ignore[override]
        return self.H * self.W

    @property
    def index(self) -> Tensor:  # type: ignore[override]
        return torch.arange(self.rows)

    def to_dense(self, x: Tensor) -> Tensor:
        self._check_rows(x)
        return x.reshape(self.N, self.H, self.W, x.shape[1])

    def from_dense(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[:3]) != self.shape:
            raise UnsupportedInputError(f"DenseLayout: expected {(*self.shape, 'C')}, got {tuple(x.shape)}")
        return x.reshape(self.rows, x.shape[3])

    def coarsen(self, k: int) -> tuple[Layout, Tensor | None]:
        """The layout after a stride-`k` convolution; odd sizes are rounded down, as a dense convolution does."""
        return DenseLayout(self.N, self.H // k, self.W // k), None


class PatchLayout(Layout):
    """The kept patches of a mask, packed: `[P, s, s]` sites, patches in row-major order within their sample.

    Attributes:
        patches: int64 `[P]`, positions of the kept patches in the flattened `[N, h, w]` patch grid.
        grid: `(N, h, w)`.
        s: tile edge in sites (8, 4, 2, 1 at FCMAE's four stages).
        kept: kept patches per sample when all samples keep the same number, else None.
        counts: int64 `[N]`, kept patches of each sample; only where `kept` is None.
    """

    kind = "patch"

    def __init__(
        self, patches: Tensor, grid: tuple[int, int, int], s: int, kept: int | None, counts: Tensor | None = None
    ) -> None:
        self.patches, self.grid, self.s, self.kept, self.counts = patches, grid, s, kept, counts
        n, h, w = grid
        self.shape = (n, h * s, w * s)
        self.rows = patches.shape[0] * s * s
        if counts is not None:
            self.rows_per_sample = counts * (s * s)
        else:
            assert kept is not None
            self.rows_per_sample = kept * s * s
        tile, width = torch.arange(s, device=patches.device), w * s
        corner = (patches // w) * (s * width) + (patches % w) * s
        self.index = (corner.view(-1, 1, 1) + tile.view(1, s, 1) * width + tile.view(1, 1, s)).flatten()

    @classmethod
    def from_mask(
        cls, mask: Tensor, s: int, grid: tuple[int, int] | None = None, kept: int | None = None
    ) -> PatchLayout:
        """From an FCMAE mask (0 keep, 1 removed), `[N, h, w]`, or `[N, L]` with ``grid=(h, w)``; square if not given.

        Args:
            s: tile edge in sites.
            kept: patches kept in each sample, where the caller knows it: then nothing is read back from the device.
                The mask must keep exactly that many everywhere.
        Raises:
            UnsupportedInputError: the mask's length does not fit the grid.
        """
        if mask.ndim == 3:
            grid = (mask.shape[1], mask.shape[2])
        elif mask.ndim == 2 and grid is None:
            side = int(mask.shape[1] ** 0.5)
            grid = (side, side)
        if mask.ndim not in (2, 3) or grid is None or grid[0] * grid[1] != mask.flatten(1).shape[1]:
            raise UnsupportedInputError(
                f"PatchLayout: mask of shape {tuple(mask.shape)} does not cover a patch grid of {grid}; "
                f"give [N, h*w] or [N, h, w]"
            )
        n, (h, w) = mask.shape[0], grid
        flat = mask.reshape(n, h * w)
        if kept is None:
            counts = (flat == 0).sum(1)
            distinct = set(counts.tolist())
            if len(distinct) > 1:
                return cls((flat == 0).flatten().nonzero().flatten(), (n, h, w), s, None, counts)
            kept = distinct.pop() if distinct else 0
        # A stable sort of 0/1 puts the kept patches first, in row-major order, without a host round trip.
        order = torch.argsort((flat != 0).to(torch.uint8), dim=1, stable=True)[:, :kept]
        patches = (order + torch.arange(n, device=mask.device).unsqueeze(1) * (h * w)).flatten()
        return cls(patches, (n, h, w), s, kept)

    @property
    def slots(self) -> Tensor:
        """int32 `[N, h, w]`: the packed slot of each patch, -1 where it was removed."""
        flat = torch.full(
            (self.grid[0] * self.grid[1] * self.grid[2],), -1, dtype=torch.int32, device=self.patches.device
        )
        flat[self.patches] = torch.arange(self.patches.shape[0], dtype=torch.int32, device=self.patches.device)
        return flat.view(self.grid)

    def coarsen(self, k: int) -> tuple[Layout, Tensor | None]:
        if self.s % k:
            return super().coarsen(k)
        return PatchLayout(self.patches, self.grid, self.s // k, self.kept, self.counts), None


class SiteLayout(Layout):
    """Any set of active sites, one per row, in any order.

    Attributes:
        index: int64 `[T]`, positions in the flattened `[N, H, W]` plane.
        rows_per_sample: int64 `[N]`. Where samples are mixed among the rows there are no such runs, and asking for them
            (as GRN and drop path per sample do) is an UnsupportedInputError; the depthwise convolution never asks.
    """

    kind = "site"

    def __init__(self, index: Tensor, shape: tuple[int, int, int], counts: Tensor | None) -> None:
        self.index, self.shape, self.rows, self._counts = index, shape, index.shape[0], counts

    @property
    def rows_per_sample(self) -> Tensor:  # type: ignore[override]
        if self._counts is None:
            raise UnsupportedInputError(
                "SiteLayout: what works sample by sample (GRN, drop path) needs the rows of a sample adjacent and "
                "samples in order; sort the rows by their first coordinate"
            )
        return self._counts

    @classmethod
    def from_mask(cls, active: Tensor) -> SiteLayout:
        """From `[N, H, W]`, nonzero where a site is active (note: the opposite sense of an FCMAE mask)."""
        if active.ndim != 3:
            raise UnsupportedInputError(
                f"SiteLayout: expected an [N, H, W] map of active sites, got {tuple(active.shape)}"
            )
        flat = (active != 0).flatten(1)
        n, h, w = active.shape
        return cls(flat.flatten().nonzero().flatten(), (n, h, w), flat.sum(1))

    @classmethod
    def from_coordinates(cls, coordinates: Tensor, shape: tuple[int, int, int]) -> SiteLayout:
        """From integer `[T, 3]` rows `(n, y, x)` in any order, as MinkowskiEngine and spconv hold them.

        Args:
            shape: `(N, H, W)`, the plane.
        Raises:
            UnsupportedInputError: not `[T, 3]` integers, a coordinate outside `shape`, or a repeated site.
        """
        n, h, w = shape
        if coordinates.ndim != 2 or coordinates.shape[1] != 3 or coordinates.is_floating_point():
            raise UnsupportedInputError(
                f"SiteLayout: expected integer [T, 3] coordinates (n, y, x), got {tuple(coordinates.shape)} "
                f"{coordinates.dtype}"
            )
        c = coordinates.long()
        limit = c.new_tensor(shape)
        if bool(((c < 0) | (c >= limit)).any()):
            raise UnsupportedInputError(f"SiteLayout: a coordinate lies outside (N, H, W) = {tuple(shape)}")
        index = (c[:, 0] * h + c[:, 1]) * w + c[:, 2]
        if index.unique().numel() != index.numel():
            raise UnsupportedInputError("SiteLayout: a site is listed twice")
        mixed = bool((c[1:, 0] < c[:-1, 0]).any())
        return cls(index, (n, h, w), None if mixed else torch.bincount(c[:, 0], minlength=n))


@dataclass(eq=False)
class SparseTensor:
    """Rows and their layout, as MinkowskiEngine's class of this name holds features and coordinates.

    A dataclass and a node of torch's trees: so FSDP's hooks, torch.export and tree_map find the rows in it.

    Attributes:
        F: features `[T, C]`. C: int64 coordinates `[T, 3]` (n, y, x), in units of this layout's sites.
    """

    F: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        if isinstance(self.F, Tensor):  # anything may stand for the rows while a tree is mapped
            self.layout._check_rows(self.F)

    @property
    def C(self) -> Tensor:
        return self.layout.coordinates

    @property
    def shape(self) -> torch.Size:
        return self.F.shape

    def __len__(self) -> int:
        return self.F.shape[0]

    def replace(self, features: Tensor) -> SparseTensor:
        """The same sites with other features."""
        return SparseTensor(features, self.layout)

    def dense(self) -> tuple[Tensor, Any, Any]:
        """Returns the tuple `(x, min_coordinate, tensor_stride)`, as in MinkowskiEngine.

        `x` is `[N, C, H, W]` in the dtype of the features, with channels_last strides and zeros where inactive; its
        size comes from the layout, not from the coordinates present. `min_coordinate` is int32 zeros `[2]` on the CPU;
        `tensor_stride` is `(1, 1)`. `layout.to_dense(F)` returns `[N, H, W, C]` alone.
        """
        return self.layout.to_dense(self.F).permute(0, 3, 1, 2), torch.zeros(2, dtype=torch.int32), (1, 1)


torch.utils._pytree.register_pytree_node(
    SparseTensor,
    lambda x: ([x.F], x.layout),
    lambda rows, layout: SparseTensor(next(iter(rows)), layout),
    serialized_type_name="convnextv2_fast.layouts.SparseTensor",
)
