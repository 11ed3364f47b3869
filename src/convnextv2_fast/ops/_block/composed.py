"""The block as two ops, each of which chooses its own backend."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ... import dispatch
from ...spec import Implementation, Spec, always
from .._dwconv_layer_norm import dwconv_layer_norm
from .._mlp_grn import mlp_grn
from .call import BlockCall


def run(call: BlockCall) -> Tensor:
    w = call.weights
    backend = None if call.backend == "composed" else call.backend
    u = dwconv_layer_norm(
        call.x, w.kernel, w.bias, w.ln_weight, w.ln_bias, eps=call.ln_eps, layout=call.layout, backend=backend
    )
    return mlp_grn(
        u,
        *w[4:10],
        residual=call.x,
        row_scale=None if call.row_scale is None else call.row_scale(u),
        layer_scale=w.layer_scale,
        eps=call.grn_eps,
        rows_per_group=call.rows_per_group,
        backend=backend,
    )


def why_not_together(backend: str, halves: Mapping[str, Implementation]) -> list[str]:
    """Why one operator of a backend may not stand for both ops, a sentence each. `halves`: what it contains of each."""
    found = []
    for op, half in halves.items():
        if not any(candidate is half for candidate in dispatch.implementations(op)):
            found.append(f"another implementation of {op} was registered in the place of the one it contains")
    for op, asked in dispatch.requested(*halves):
        if asked != backend:
            found.append(f"{op} is asked to run on {asked}")
    return found


def _notes(spec: Spec) -> list[str]:
    return ["dwconv_layer_norm and mlp_grn run, each on a backend of its own choice"]


COMPOSED = Implementation("composed", run, always, notes=_notes)
