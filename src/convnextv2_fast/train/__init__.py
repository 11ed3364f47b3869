"""Pre-training and fine-tuning: `python -m convnextv2_fast pretrain | finetune | predict | reconstruct | curve`.

`pretrain` and `finetune` are the two tasks, with their models and losses; `loop` is the one loop that both run in.

* Samples: `tables` reads images, `labelled` those of classes, `data` puts them in order, `streams` reads shards;
  `augment` holds the transforms of fine-tuning.
* Runs: `start` finds a classifier's weights, `optim` mirrors upstream's `optim_factory`, `recipes` holds its published
  settings, `parallel` the processes, `saving` and `resume` write checkpoints and continue from them.
* Words: `log` is what is written down, `display` and `advice` are what a person sees.
* Afterwards: `predict` classifies, `pictures` and `curves` draw.

Everything random that a sample meets (its place in the order, its crop, its mask) is a function of the seed and the
sample's position in the run, never of the process that loads it: so a run goes on exactly where it was stopped, and two
processes see what one would.
"""

from ..errors import TrainingError

__all__ = ["TrainingError"]
