"""`finetune`: a classifier, with upstream's arguments; `--eval` only measures one."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from ..train.recipes import RECIPES
from .arguments import CommandError, path_text, positive
from .pretrain import NAMES
from .training import add_loading, add_run, amount, below_one, check, flag, models, share

REFUSED = {
    "resplit": "needs augmentation splits, which this recipe has none of (upstream ignores it)",
    "model_prefix": "is not needed: prefixes are found and stripped",
}

DESCRIPTION = """\
Fine-tunes a ConvNeXt V2 classifier from any checkpoint that load_checkpoint knows, or
from random weights. The classes are the folders' names. The same command, started
again, resumes from the newest checkpoint in --output_dir."""
EXAMPLES = """\
examples:
  python -m convnextv2_fast finetune --data_path images --finetune runs/tiny/checkpoint-799.pth \\
      --epochs 30 --warmup_epochs 3 --lr 5e-4 --batch_size 32 --output_dir tuned
      reads images/train/CLASS/IMAGE and images/val/CLASS/IMAGE
  python -m convnextv2_fast finetune --data_path images --eval --resume tuned/checkpoint-best.pth
  python -m convnextv2_fast predict photo.jpg --checkpoint tuned/checkpoint-best.pth

--recipe sets upstream's published values; options that are given override them."""


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "finetune",
        help="train a classifier from a checkpoint, or evaluate one",
        usage="%(prog)s --data_path PATH [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = add_loading(parser)
    layout = "train/CLASS/IMAGE and val/CLASS/IMAGE in it; for image_folder CLASS/IMAGE"
    add("--data_path", type=path_text, required=True, metavar="PATH", help=layout)
    add("--eval_data_path", type=path_text, metavar="PATH", help="validation images, CLASS/IMAGE; for image_folder")
    kinds = ("IMNET", "image_folder", "CIFAR", "hf")
    add("--data_set", default="IMNET", choices=kinds, help="what --data_path is (default: IMNET)")
    add("--nb_classes", type=positive, metavar="N", help="number of classes (default: counted from the data)")
    add("--split", default="train", metavar="NAME", help="of a Hugging Face dataset (default: train)")
    add("--eval_split", default="validation", metavar="NAME", help="default: validation")
    pixels = "pixels of a side, from 32 (default: 224; with --eval the checkpoint's)"
    add("--input_size", type=positive, metavar="N", help=pixels)
    add("--crop_pct", type=share, metavar="X", help="evaluation: share of the side that is kept (default: 224/256)")
    add("--in_chans", type=int, choices=(1, 3, 4), help="1: grey, 3: RGB, 4: RGBA (default: the checkpoint's, else 3)")
    normalised, told = "normalise by ImageNet's mean and std, else by 0.5", "true; with --eval the checkpoint's"
    flag(add, "--imagenet_default_mean_and_std", None, normalised, told)
    add = parser.add_argument_group("model").add_argument
    add("--recipe", choices=tuple(RECIPES), help="upstream's published settings for this size, for 1024 images a step")
    which = "default: the checkpoint's, else convnextv2_base"
    add("--model", type=models(NAMES), metavar="NAME", help=f"{', '.join(NAMES)} ({which})")
    add("--finetune", type=path_text, default="", metavar="FILE", help="checkpoint to start from; its head is not used")
    add("--model_key", default="model|module", metavar="KEYS", help="where its weights are (default: found)")
    add("--details", action="store_true", help="list every tensor where the checkpoint does not fit the model")
    add("--model_prefix", help=argparse.SUPPRESS)
    add("--drop_path", type=share, default=0.0, metavar="X", help="stochastic depth (default: 0)")
    add("--head_init_scale", type=float, default=0.001, metavar="X", help="without --finetune (default: 0.001)")
    add("--layer_decay", type=share, default=1.0, metavar="X", help="learning rate factor a layer (default: 1)")
    decays = ("single", "group")
    add("--layer_decay_type", default="single", choices=decays, help="a layer a block (default), or three blocks")
    add_run(parser, epochs=100, warmup=20, blr=5e-4, min_lr=1e-6)
    add = parser.add_argument_group("optimizer").add_argument
    add("--warmup_steps", type=int, default=-1, metavar="N", help="in place of --warmup_epochs")
    add("--weight_decay_end", type=amount, metavar="X", help="cosine from --weight_decay to this (default: constant)")
    add("--opt", default="adamw", metavar="NAME", help="any of timm's (default: adamw)")
    add("--opt_eps", type=amount, default=1e-8, metavar="X", help="default: 1e-8")
    add("--opt_betas", type=below_one, nargs="+", metavar="X", help="default: the optimizer's own")
    add("--momentum", type=amount, default=0.9, metavar="X", help="default: 0.9")
    add = parser.add_argument_group("augmentation").add_argument
    add("--color_jitter", type=amount, metavar="X", help="without --aa (default: none)")
    policy = "rand-m9-mstd0.5-inc1"
    add("--aa", type=policy_name, default=policy, metavar="NAME", help=f"timm's policy, or none (default: {policy})")
    add("--smoothing", type=below_one, default=0.1, metavar="X", help="of labels (default: 0.1)")
    add("--train_interpolation", default="bicubic", choices=("random", "bilinear", "bicubic"), help="default: bicubic")
    add("--reprob", type=share, default=0.25, metavar="X", help="random erasing (default: 0.25)")
    add("--remode", default="pixel", choices=("const", "rand", "pixel"), help="what is put there (default: pixel)")
    add("--recount", type=positive, default=1, metavar="N", help="default: 1")
    add("--resplit", action="store_true", help=argparse.SUPPRESS)
    add("--mixup", type=amount, default=0.0, metavar="X", help="alpha (default: 0)")
    add("--cutmix", type=amount, default=0.0, metavar="X", help="alpha (default: 0)")
    add("--cutmix_minmax", type=share, nargs=2, metavar="X", help="least and largest, in place of its alpha")
    add("--mixup_prob", type=share, default=1.0, metavar="X", help="default: 1")
    add("--mixup_switch_prob", type=share, default=0.5, metavar="X", help="default: 0.5")
    add("--mixup_mode", default="batch", choices=("batch", "pair", "elem"), help="default: batch")
    add = parser.add_argument_group("evaluation").add_argument
    flag(add, "--eval", False, "only evaluate --resume or --finetune")
    flag(add, "--dist_eval", True, "share the validation images among the processes")
    flag(add, "--disable_eval", False, "no evaluation while training")
    flag(add, "--model_ema_eval", False, "evaluate the moving average, too")
    parser.set_defaults(run=run)
    parse = parser.parse_known_args

    def with_recipe(args: Any = None, namespace: Any = None) -> Any:
        """A recipe's values are defaults: they must be there before the rest is read."""
        first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        first.add_argument("--recipe", default="")
        with contextlib.suppress(argparse.ArgumentError):
            parser.set_defaults(**RECIPES.get(first.parse_known_args(args)[0].recipe, {}))
        return parse(args, namespace)

    parser.parse_known_args = with_recipe  # type: ignore[method-assign]


def policy_name(text: str) -> str:
    """argparse type: empty for `none`; timm knows which of the rest there are."""
    return "" if text.lower() == "none" else text


def run(args: argparse.Namespace) -> int:
    """Trains or evaluates; 0 when that is done.

    Raises:
        CommandError, TrainingError: arguments, data or checkpoints that cannot be used.
    """
    check(args, REFUSED)
    if args.cutmix_minmax is not None and args.cutmix_minmax[0] > args.cutmix_minmax[1]:
        least, most = args.cutmix_minmax
        raise CommandError(f"--cutmix_minmax {least:g} {most:g}: the least comes first")
    from ..train import finetune

    finetune.run(args)
    return 0
