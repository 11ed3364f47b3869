"""Measuring: the engine that takes times, the rows it takes them of, and the other implementations to compare with.

`timing` is the engine, which `python -m convnextv2_fast bench` and the repository's `benchmarks` share; so is `alone`,
which measures on CPUs, with a process (`worker`) for each provider and turn. `peers` has timm and transformers,
`runtimes` ONNX Runtime and OpenVINO; `models`, `specs`, `rows`, `providers`, `apart`, `report` and `plot` are what the
commands `bench` and `check` are made of, `checks` judges results. Nothing here is imported with the package, and no
optional package before it is asked for.
"""
