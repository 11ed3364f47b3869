"""A model of GPU time: every kernel of a pass, with the bytes it moves, its operations and its instructions.

`chips` has the machines, `kernel` the formula and its constants, `depthwise` and `ops` what one call of an op runs,
`block` what a whole block runs as one operator for each direction, `models` and `pretraining` whole passes, `compiled`
the same passes under torch.compile, `host` the host's part of a step, `measured` the committed results, `comparison`
predictions beside them. Pure arithmetic: no torch, no GPU. `python -m benchmarks gpu-model` prints it.
"""
