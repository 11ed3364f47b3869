"""Device code: the exact GELU, accurate to the dtype.

gelu(x) = x Phi(x), with Phi(x) = erfc(-x / sqrt 2) / 2. Half precision takes, for the left tail,
Phi(-z) = exp(-z^2 / 2) t q(t), t = 1 / (1 + p z): a rational-exponential form as in Hastings (1955; Abramowitz and
Stegun 7.1.26) whose coefficients were fitted for the smallest *relative* error of Phi, so that the tail is right too.
float32 takes the library's erf.

PTX: the kernel is compiled for an NVIDIA GPU. Then single instructions stand for what the compiler writes several for:
its exponential and its quotient scale numbers beyond the normal range, which changes a result by less than 2e-38, and
it rounds one number at a time, on the unit that the exponentials wait for.
"""

import triton
import triton.language as tl

from .chip import Chip


def ptx(chip: Chip) -> bool:
    """Whether kernels for this chip may hold PTX. The interpreter cannot run it."""
    return chip.family.startswith("sm_") and isinstance(gelu, triton.runtime.JITFunction)


@triton.jit
def rounded(x, dtype: tl.constexpr, PTX: tl.constexpr):
    """A float32 tile in the dtype; where PTX, two numbers an instruction."""
    if PTX and dtype == tl.bfloat16:
        return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [x], tl.bfloat16, True, 2)
    elif PTX and dtype == tl.float16:
        return tl.inline_asm_elementwise("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [x], tl.float16, True, 2)
    else:
        return x.to(dtype)


@triton.jit
def _half_tail(x, PTX: tl.constexpr):
    """Phi(-|x|) and exp(-x^2 / 2); relative error of Phi below 2^-15 where it is a normal float32."""
    power, divisor = x * x * -0.7213475204444817, 1.0 + 0.375 * tl.abs(x)
    if PTX:
        e = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], tl.float32, True, 1)
        t = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [divisor], tl.float32, True, 1)
    else:
        e = tl.exp2(power)
        t = 1.0 / divisor
    q = -0.09098505 * t + 0.20104291
    q = q * t + 0.08297434
    q = q * t + 0.15791998
    q = q * t + 0.14904114
    return q * t * e, e


@triton.jit
def gelu(x, FAST: tl.constexpr, PTX: tl.constexpr = False):
    """`x Phi(x)` of a float32 tile. FAST: accurate to half precision's rounding, else to float32's."""
    if FAST:
        tail, _ = _half_tail(x, PTX)
        phi = tl.where(x < 0, tail, 1.0 - tail)
    else:
        phi = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    return x * phi


@triton.jit
def gelu_and_grad(x, FAST: tl.constexpr, PTX: tl.constexpr = False):
    """`x Phi(x)` and its derivative `Phi(x) + x phi(x)`, which share the exponential."""
    if FAST:
        tail, e = _half_tail(x, PTX)
        phi = tl.where(x < 0, tail, 1.0 - tail)
    else:
        e = tl.exp2(x * x * -0.7213475204444817)
        phi = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    return x * phi, phi + x * e * 0.3989422804014327
