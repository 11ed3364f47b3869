"""Tools of the kernels: `tiles`, `resources` and `prefer` write tables, `sanitize_cpu` and `sanitize_gpu` run the
kernels under sanitizers. `compiling` and `variants` are what the tables of the Triton kernels share.
"""
