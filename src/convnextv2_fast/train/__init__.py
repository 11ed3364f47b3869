"""Pre-training and fine-tuning: `python -m convnextv2_fast pretrain | finetune | reconstruct | curve`.

`pretrain` and `finetune` are the two tasks, with their models, losses and transforms; `loop` is the one loop that both
run in, `data` and `streams` where samples come from, `parallel` the processes, `saving` and `resume` what is kept and
how a run goes on from it, `log` what is written down. `optim` mirrors upstream's `optim_factory`; `recipes` holds its
published settings. `pictures` and `curves` draw.

Everything random that a sample meets (its place in the order, its crop, its mask) is a function of the seed and the
sample's position in the run, never of the process that loads it: so a run goes on exactly where it was stopped, and two
processes see what one would.
"""


class TrainingError(Exception):
    """A run cannot start or go on; the message says what would help."""
