"""`python -m benchmarks compare`: a base revision beside the working tree; `worker` is the child that times one."""
