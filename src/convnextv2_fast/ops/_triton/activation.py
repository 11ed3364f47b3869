"""Device code: the exact GELU, accurate to the dtype.

gelu(x) = x Phi(x), with Phi(x) = erfc(-x / sqrt 2) / 2. Half precision takes, for the left tail,
Phi(-z) = exp(-z^2 / 2) t q(t), t = 1 / (1 + p z): a rational-exponential form as in Hastings (1955; Abramowitz and
Stegun 7.1.26) whose coefficients were fitted for the smallest *relative* error of Phi, so that the tail is right too.
float32 takes the library's erf.
"""

import triton
import triton.language as tl


@triton.jit
def _half_tail(x):
    """Phi(-|x|) and exp(-x^2 / 2); relative error of Phi below 2^-15 where it is a normal float32."""
    e = tl.exp2(x * x * -0.7213475204444817)
    t = 1.0 / (1.0 + 0.375 * tl.abs(x))
    q = -0.09098505 * t + 0.20104291
    q = q * t + 0.08297434
    q = q * t + 0.15791998
    q = q * t + 0.14904114
    return q * t * e, e


@triton.jit
def gelu(x, FAST: tl.constexpr):
    """`x Phi(x)` of a float32 tile. FAST: accurate to half precision's rounding, else to float32's."""
    if FAST:
        tail, _ = _half_tail(x)
        phi = tl.where(x < 0, tail, 1.0 - tail)
    else:
        phi = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    return x * phi


@triton.jit
def gelu_and_grad(x, FAST: tl.constexpr):
    """`x Phi(x)` and its derivative `Phi(x) + x phi(x)`, which share the exponential."""
    if FAST:
        tail, e = _half_tail(x)
        phi = tl.where(x < 0, tail, 1.0 - tail)
    else:
        e = tl.exp2(x * x * -0.7213475204444817)
        phi = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    return x * phi, phi + x * e * 0.3989422804014327
