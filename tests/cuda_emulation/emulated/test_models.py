"""Whole models on emulated CUDA kernels."""

import pytest

from tests.whole_models import *  # noqa: F403  the tests


@pytest.fixture(scope="module")
def backend():
    return "cuda"
