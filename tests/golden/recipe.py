"""Order-independent, numpy-only recipe for the weights and inputs of the golden FCMAE vectors.
RandomState streams are frozen by numpy's compatibility policy, so nothing large has to be stored.
Names and shapes are those of the FCMAE state_dict under MinkowskiEngine."""

import zlib

import numpy as np

SEED = 7


def rng(seed, name):
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % (2**32))


def param(name, shape, seed=SEED):
    g = rng(seed, name).standard_normal(tuple(shape))
    last = name.split(".")[-1]
    if ".grn." in name:  # gamma, beta: normal(0, .5)
        w = 0.5 * g
    elif last == "bias":
        w = 0.2 * g
    elif name == "mask_token":
        w = 0.5 * g
    elif last == "weight" and len(shape) == 1:  # LayerNorm weight
        w = 1 + 0.2 * g
    elif last == "kernel" and len(shape) == 2:  # depthwise [49, C]
        w = g / 4
    elif last == "kernel":  # k2s2 [4, Cin, Cout]
        w = g / np.sqrt(shape[0] * shape[1])
    elif len(shape) == 2:  # Linear [out, in]
        w = g / np.sqrt(shape[1])
    else:  # Conv2d [out, in, kh, kw]
        w = g / np.sqrt(np.prod(shape[1:]))
    return w.astype(np.float32)


def images(seed, size, batch):
    """tiny64: images(1, 64, 2)"""
    return rng(seed, f"imgs{size}").standard_normal((batch, 3, size, size)).astype(np.float32)


def fingerprint(array, name):
    """one number that catches a permuted or transposed gradient, which a norm does not"""
    return float((array.astype(np.float64) * rng(99, name).standard_normal(array.shape)).sum())
