"""A call of the patch convolution as every implementation takes it, and the operators that surround its product."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ...layouts import Layout
from .._layer_norm.call import Kernels as LayerNorm
from .._shared.checks import flat, in_one_dtype
from .gather import Gather
from .weights import edge

Norm = tuple[Tensor, Tensor] | tuple[None, None]  # weight and bias of a LayerNorm, contiguous and of one dtype


class PatchConvCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.patch_conv`, checked and in the kernels' form."""

    x: Tensor  # [N, H, W, Cin], any strides, or [S, Cin]
    weight: Tensor  # [Cout, Cin, k, k] or [k*k, Cin, Cout]
    bias: Tensor | None  # [Cout], contiguous
    norm_before: Norm
    norm_after: Norm
    eps: float
    layout: Layout | None
    gather: Gather

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        norm_before: tuple[Tensor, Tensor] | None = None,
        norm_after: tuple[Tensor, Tensor] | None = None,
        eps: float = 1e-6,
        layout: Layout | None = None,
    ) -> PatchConvCall:
        """Makes it from the arguments of the public function."""
        norms: Any = [in_one_dtype(*(norm or (None, None))) for norm in (norm_before, norm_after)]
        vector = None if bias is None else flat(bias)
        before, after = norms
        return cls(x, weight, vector, before, after, eps, layout, Gather.of(x, edge(weight), layout))

    def shaped(self, z: Tensor) -> Tensor:
        """Result rows `[T', Cout]` in the shape of the public function's result."""
        if self.layout is not None:
            return z
        k = self.gather.k
        return z.view(self.x.shape[0], self.x.shape[1] // k, self.x.shape[2] // k, z.shape[1])


class Forward(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        gather: Gather,
        /,
    ) -> tuple[Tensor, ...]:
        """Returns z `[T', Cout]`, and the statistics of x's rows that the others want, if any."""


class Blocks(Protocol):
    def __call__(
        self,
        x: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        gather: Gather,
        /,
        *statistics: Tensor,
    ) -> Tensor:
        """Returns the blocks of rows x `[S, Cin]`, normalised on the way if there is a norm_weight: `[T', k*k*Cin]`,
        columns (ky, kx, cin)."""


class Scatter(Protocol):
    def __call__(self, blocks: Tensor, sources: int, covers: bool, /, *gather: Any) -> Tensor:
        """Returns blocks `[T', k*k*Cin]` back at their places, `[S, Cin]`; zeros where no block has a row (`covers`:
        there are no such rows)."""


class ParameterGradients(Protocol):
    def __call__(
        self,
        dz: Tensor,
        x: Tensor,
        weight: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        gather: Gather,
        wanted: tuple[bool, bool],
        /,
        *statistics: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns the gradients of the weight, in its form, and of the bias, `[Cout]`, in float32 or wider, that are
        `wanted`; from contiguous dz `[T', Cout]`, rows x `[S, Cin]` and what the blocks are made with."""


class InputGradient(Protocol):
    def __call__(self, dz: Tensor, weight: Tensor, sources: int, covers: bool, gather: Gather, /) -> Tensor:
        """Returns the gradient of rows x behind their norm, `[S, Cin]` in dz's dtype. For `covers` see
        :class:`Scatter`."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward
    parameter_gradients: ParameterGradients
    input_gradient: InputGradient
    layer_norm: LayerNorm


def blocks_fake(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float, *gather: Any) -> Tensor:
    return x.new_empty((Gather(*gather).rows, Gather(*gather).k ** 2 * x.shape[1]))


def scatter_fake(blocks: Tensor, sources: int, covers: bool, *gather: Any) -> Tensor:
    return blocks.new_empty((sources, blocks.shape[1] // Gather(*gather).k ** 2))
