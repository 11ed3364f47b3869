"""Benchmarks of convnextv2_fast beside its peers. Not part of the wheel; run from the repository root."""
