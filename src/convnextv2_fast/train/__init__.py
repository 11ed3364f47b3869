"""Pre-training and fine-tuning, from Python:

    from convnextv2_fast.train import PretrainConfig, pretrain
    pretrain(PretrainConfig(data_path="images", model="atto", epochs=20, lr=1e-3, output_dir="runs/mae"))

and as the commands `pretrain`, `finetune`, `predict`, `reconstruct` and `curve`.

`pretraining` and `finetuning` are the two tasks, with their models and losses; `loop` is the one loop that both run in.

* Options: `config`, `pretrain_config` and `finetune_config` declare them, each a field of a `kind` in `options`;
  `recipes` holds upstream's published settings.
* Samples: `images` reads a file, `tiff` and `bands` what Pillow has no mode for. `tables` finds images in folders,
  `hub` in Hugging Face datasets, `labelled` knows their classes, `data` puts them in order, `streams` reads shards;
  `augment` holds the transforms of fine-tuning.
* Runs: `start` finds a classifier's weights, `optim` mirrors upstream's `optim_factory`, `parallel` holds the
  processes, `lock` keeps an output folder to one run, `saving` and `resume` write checkpoints and continue from them.
* Words: `log` is what is written down, in the `lines` of its files, `display` and `advice` are what a person sees.
* Afterwards: `predict` classifies, `pictures` and `curves` draw.

Everything random that a sample meets (its place in the order, its crop, its mask) is a function of the seed and the
sample's position in the run, never of the process that loads it: so a run goes on exactly where it was stopped, and two
processes see what one would.
"""

from typing import Any

from ..errors import TrainingError
from .config import TrainConfig
from .finetune_config import FinetuneConfig
from .pretrain_config import PretrainConfig

__all__ = ["FinetuneConfig", "PretrainConfig", "TrainConfig", "TrainingError", "finetune", "pretrain"]


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pre-trains a masked autoencoder, or continues a run, in every process that torchrun has started, or alone.

    Returns:
        The last epoch's record, as in `log.txt`; empty where nothing was left to do.
    Raises:
        TrainingError: data, options or a checkpoint that cannot be used.
        UnsupportedInputError: a model that cannot be built.
    """
    from . import pretraining  # what it imports takes a fifth of a second, which other commands need not wait for

    return pretraining.run(config)


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Trains a classifier, continues a run, or with `eval` measures a classifier.

    Returns:
        The last epoch's record, as in `log.txt`, or the metrics of `eval`.
    Raises:
        TrainingError: data, options or a checkpoint that cannot be used.
    """
    from . import finetuning

    return finetuning.run(config)
