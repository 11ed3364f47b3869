"""What a run says: the progress bar, warnings before the start, messages about packages that are missing."""

import re
import sys
from types import SimpleNamespace

import pytest

from convnextv2_fast.cli import _training
from convnextv2_fast.train import TrainingError, advice, libraries
from convnextv2_fast.train.display import Display

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
    args = {"epochs": 20, "warmup_epochs": 2, "lr": 1e-3, "finetune": ""} | changes
    scaled_from = args.pop("blr", None)
    return "\n".join(advice.schedule_warnings(SimpleNamespace(**args), 16, 10, scaled_from))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"warmup_epochs": 40},
            r"--warmup_epochs 40\) is as long as the run \(--epochs 20\) .* rises to 0.0005 of 0.001",
        ),
        ({"warmup_epochs": 20}, "try --warmup_epochs 2$"),
        ({"warmup_steps": 500}, r"--warmup_steps 500\) is as long .* try --warmup_steps 20$"),
        ({"lr": 9.4e-6, "blr": 1.5e-4}, r"is 9.4e-06 \(--blr 0.00015 x 16 images a step / 256\).* such as --lr 1e-3$"),
        ({"lr": 1e-5, "blr": 1.5e-4, "finetune": "f.pth"}, "such as --lr 1e-4$"),
    ],
)
def test_settings_that_cannot_learn(options, message):
    assert re.search(message, said(**options)) and said(**options).count("warning: ") == 1


def test_settings_that_can():
    assert not said() and not said(lr=9.4e-6)  # as it was given
    assert not said(lr=3e-5, blr=5e-4, finetune="f.pth") and not said(warmup_epochs=19)


def test_without_output_dir(cli, photos):
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--epochs", "2")
    assert code == 0 and err.count("warning: no --output_dir: nothing is saved") == 1
    assert err.index("warning: no --output_dir") < err.index("step ")


def test_workers_are_as_many_as_cores(monkeypatch):
    for cores, processes, want in ((2, 1, 2), (64, 1, 10), (64, 8, 8), (1, 4, 1)):
        monkeypatch.setattr(_training.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert _training.workers() == want


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(libraries, "PACKAGES", {"no_such_a": "package-a", "no_such_b": "package-b", "sys": "sys"})
    with pytest.raises(
        TrainingError, match=r"^this needs package-b, which is not installed: pip install package-b pac"
    ):
        libraries.need("no_such_b.part")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TrainingError, match="pip install matplotlib"):
        libraries.need("matplotlib")
