"""The columns `provider` and `mode`: no two ids may share them, or one row would take the other's place."""

import pytest

from benchmarks.reports import naming


@pytest.mark.parametrize("graph", [False, True])
def test_no_two_providers_are_named_alike(graph):
    ours = [
        "fast",
        "fast-cuda",
        "fast-triton",
        "fast-compile",
        "fast-reduce-overhead",
        "fast-cuda-mma",
        "fast-cuda-fma",
    ]
    found = [naming.published(name, graph=graph) for name in (*ours, *naming._PEERS)]
    assert len(set(found)) == len(found)


def test_how_it_runs():
    assert naming.published("fast-graph") == naming.published("fast", graph=True) == ("convnextv2_fast", "graph")
    assert naming.published("fast-cuda", graph=True) == ("convnextv2_fast", "cuda graph")
    assert naming.published("cudnn", graph=True) == ("pytorch", "cudnn graph")
    with pytest.raises(KeyError):
        naming.published("unknown")
