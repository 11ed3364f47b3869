"""What a run says: the progress bar, warnings before the start, messages about packages that are missing."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from convnextv2_fast.train import FinetuneConfig, TrainingError, advice, config, libraries
from convnextv2_fast.train.display import Display
from convnextv2_fast.train.layers import Timing

from .conftest import PRETRAIN


@pytest.mark.parametrize(
    ("width", "there", "left_out"),
    [
        (80, ["1:05:00 left", "1234.5 images/s", "loss 0.4567", "100/100000"], ["epoch 12"]),
        (120, ["1:05:00 left", "1234.5 images/s", "loss 0.4567", "100/100000", "pretrain tiny", "epoch 12"], []),
        (45, ["1:05:00 left", "1234.5 images/s"], ["100/100000"]),
    ],
)
def test_the_bar_keeps_speed_and_time_left(capsys, monkeypatch, width, there, left_out):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", str(width))
    show = Display("pretrain tiny", 100_000, 0)
    show._began -= 3900 / 99_900 * 100  # 100 steps took so long
    show.steps({"step": 99, "epoch": 12, "loss": 0.45671}, 1234.5)
    show.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width and "━" * 8 in lines[-1]
    assert all(text in lines[-1] for text in there) and not any(text in lines[-1] for text in left_out)


def said(**changes) -> str:
    given = {"data_path": "x", "epochs": 20, "warmup_epochs": 2, "lr": 1e-3, "min_lr": 0} | changes
    scaled_from, per_epoch = given.pop("blr", None), given.pop("per_epoch", 10)
    return "\n".join(advice.schedule_warnings(FinetuneConfig(**given), 16, per_epoch, scaled_from))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"warmup_epochs": 40},
            r"--warmup_epochs 40\) is as long as the run \(--epochs 20\) .* rises to 0.0005 of 0.001",
        ),
        ({"warmup_epochs": 20}, "try --warmup_epochs 2$"),
        ({"warmup_steps": 500}, r"--warmup_steps 500\) is as long .* try --warmup_steps 20$"),
        ({"warmup_steps": 500, "epochs": 1, "per_epoch": 5}, r"--warmup_steps 500\) .* try --warmup_steps 1$"),
        ({"warmup_steps": 9, "epochs": 1, "per_epoch": 1}, r"try --warmup_epochs 0 without --warmup_steps$"),
        ({"lr": 0.0, "min_lr": 1e-6}, r"the learning rate is 0: nothing is learned. Try --lr 1e-3$"),
        ({"lr": 1e-12, "finetune": "f.pth"}, r"the learning rate is 1e-12: nothing is learned. Try --lr 1e-4$"),
        ({"min_lr": 0.1}, r"--min_lr 0.1 is above the learning rate of 0.001, .* try --min_lr 0$"),
        ({"lr": 9.4e-6, "blr": 1.5e-4}, r"is 9.4e-06 \(--blr 0.00015 x 16 images a step / 256\).* such as --lr 1e-3$"),
        ({"lr": 1e-5, "blr": 1.5e-4, "finetune": "f.pth"}, "such as --lr 1e-4$"),
    ],
)
def test_settings_that_cannot_learn(options, message):
    assert re.search(message, said(**options)) and said(**options).count("warning: ") == 1


def test_settings_that_can():
    assert not said() and not said(lr=9.4e-6)  # as it was given
    assert not said(lr=3e-5, blr=5e-4, finetune="f.pth") and not said(warmup_epochs=19)
    assert not said(min_lr=1e-3)  # constant


def a_run(**changes) -> SimpleNamespace:
    """What `advice` reads of a run: 24 images of three classes in steps of 16."""
    task = SimpleNamespace(name="finetune", network="convnextv2_atto", epoch_samples=24, classes=["a", "b", "c"])
    processes = SimpleNamespace(size=1, device="cpu")
    steps = SimpleNamespace(among=processes, images=16, per_epoch=1, epochs=2)
    given = FinetuneConfig(data_path="x", lr=1e-3, epochs=2, warmup_epochs=0, nb_classes=3)
    found = {"config": given, "task": task, "steps": steps, "model": torch.nn.Linear(1, 1), "folder": None, "best": {}}
    found |= {"scaled_from": None, "saved": None, "resumed": None, "plain": 0}
    return SimpleNamespace(**found | changes)


def test_facts_are_counted():
    run = a_run()
    facts = next(advice.facts(run))
    assert (
        "; 24 images, 1 step of 16 an epoch, 2 epochs; 8 images left out of each epoch, which fill no step; " in facts
    )
    run.task.epoch_samples, run.steps.per_epoch, run.steps.epochs = 32, 2, 1
    assert "; 32 images, 2 steps of 16 an epoch, 1 epoch; lr 0.001" in next(advice.facts(run))


def test_one_class_teaches_nothing():
    run = a_run()
    assert not any("class" in text for text in advice.warnings(run))
    run.config, run.task.classes = replace(run.config, nb_classes=1), ["cat"]
    assert sum("warning: there is only one class (cat)" in text for text in advice.warnings(run)) == 1


def test_the_best_checkpoint_is_named(tmp_path):
    best = tmp_path / "checkpoint-best.pth"
    run = a_run(folder=SimpleNamespace(path=tmp_path), saved=tmp_path / "checkpoint-1.pth", best={"best": 75.0})
    assert advice.finished(run, "0:01:00") == f"finetune: done in 0:01:00; wrote {run.saved}"
    best.touch()
    assert advice.finished(run, "0:01:00").endswith(f"checkpoint-1.pth; the best is {best}, with 75.00 % right")


def test_a_loss_that_is_no_number():
    run = a_run()
    assert advice.diverged(run, "the loss is nan") == "the loss is nan. What may help: a lower --lr or --clip_grad 1"
    run.scaled_from, run.task.name, run.saved = 1e-3, "pretrain", "c.pth"
    run.config = replace(run.config, use_amp=True, amp_dtype="float16")
    said = advice.diverged(run, "the loss is nan")
    assert said.startswith("the loss is nan; the last checkpoint, c.pth, is from before. What may help: a lower --blr ")
    assert "--init std02" in said and said.endswith("; float16 overflows sooner than --amp_dtype bfloat16")


@pytest.mark.parametrize(("steps", "message"), [(3, "nothing was timed: .* only 3$"), (4, "mean of 1:"), (9, "of 2:")])
def test_layers_of_a_short_run_are_timed(steps, message):
    said: list[str] = []
    timing = Timing(torch.nn.Linear(1, 1), torch.device("cpu"), 2, said.append)
    for _ in range(steps):
        if (timer := timing.next()) is not None:
            timer.start()
            timer.stop()
    timing.finish()
    assert len(said) == 1 and re.search(message, said[0])


def test_without_output_dir(cli, photos):
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--epochs", "2")
    assert code == 0 and err.count("warning: no --output_dir: nothing is saved") == 1
    assert err.index("warning: no --output_dir") < err.index("step ")


def test_workers_are_as_many_as_cores(monkeypatch):
    for cores, processes, want in ((2, 1, 2), (64, 1, 10), (64, 8, 8), (1, 4, 1)):
        monkeypatch.setattr(config.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert config.workers() == want


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(libraries, "PACKAGES", {"no_such_a": "package-a", "no_such_b": "package-b", "sys": "sys"})
    with pytest.raises(
        TrainingError, match=r"^this needs package-b, which is not installed: pip install package-b pac"
    ):
        libraries.need("no_such_b.part")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TrainingError, match="pip install matplotlib"):
        libraries.need("matplotlib")
