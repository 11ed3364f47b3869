"""A pre-training small enough to watch: `make pretrain-photos`.

160 crops of four photographs, atto, 224 px, 200 steps of 16 images; then the loss curve, a reconstruction, a few
steps of fine-tuning from the checkpoint and a prediction, through the same commands that a user would type.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from convnextv2_fast.cli import main as command

from . import machine

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CROPS, HELD_BACK = 40, 4
PRETRAIN = ("--model", "atto", "--batch_size", "16", "--epochs", "20", "--warmup_epochs", "2", "--lr", "1e-3")
PRETRAIN = (*PRETRAIN, "--init", "std02", "--grn_scope", "sample", "--save_ckpt_freq", "20", "--log_freq", "10")
FINETUNE = ("--batch_size", "16", "--epochs", "2", "--warmup_epochs", "0", "--lr", "1e-3", "--input_size", "96")


def photographs(folder: Path) -> None:
    """Square crops of skimage's photographs by name, some of each held back: `train/` and `val/`."""
    import skimage.data
    from PIL import Image

    draw = random.Random(0)
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(getattr(skimage.data, name)())
        for i in range(CROPS + HELD_BACK):
            side = draw.randint(200, min(picture.size))
            left, top = (draw.randint(0, length - side) for length in picture.size)
            place = folder / ("train" if i < CROPS else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            picture.crop((left, top, left + side, top + side)).save(place / f"{i:02d}.png")


def run(*argv: object) -> None:
    """A command that must succeed."""
    print("$ python -m convnextv2_fast", *argv, flush=True)
    code = command([str(a) for a in argv])
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/photographs"))
    parser.add_argument("--save", action="store_true", help="copy pictures and losses to docs/pictures")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    images, mae, classifier = args.out / "images", args.out / "pretrain", args.out / "finetune"
    photographs(images)
    run("pretrain", "--data_path", images, *PRETRAIN, "--num_workers", "1", "--output_dir", mae)
    losses = [json.loads(line)["loss"] for line in (mae / "steps.jsonl").read_text().splitlines()]
    print(
        f"{len(losses)} steps: the loss fell from {losses[0]:.3f} to {sum(losses[-10:]) / 10:.3f} (mean of the last 10)"
    )
    checkpoint, image = mae / "checkpoint-19.pth", images / "val" / "chelsea" / f"{CROPS:02d}.png"
    run("curve", mae, "--out", args.out / "curve.png")
    run("reconstruct", checkpoint, image, "--out", args.out / "reconstruction.png")
    start = ("--finetune", checkpoint, "--output_dir", classifier, "--num_workers", "1")
    run("finetune", "--data_path", images, *FINETUNE, *start)
    run("predict", image, "--checkpoint", classifier / "checkpoint-best.pth")
    if args.save:
        save(args.out, losses)


def save(out: Path, losses: list[float]) -> None:
    """Pictures, and what they were made of and on."""
    folder = machine.ROOT / "docs" / "pictures"
    folder.mkdir(exist_ok=True)
    for name in ("curve", "reconstruction"):
        shutil.copy(out / f"{name}.png", folder / f"photographs-{name}.png")
    record: dict[str, Any] = {"machine": machine.describe(), **machine.commit(), "losses": losses}
    (folder / "photographs.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
