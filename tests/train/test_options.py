"""Options whose values go on to timm and torch: what these refuse is one line, and no traceback."""

from pathlib import Path

import pytest

from convnextv2_fast.train import TrainingError
from convnextv2_fast.train.libraries import blamed

from .conftest import SMALL
from .test_finetune import configured

FINETUNE = ("--model", "atto", *SMALL, "--epochs", "1", "--warmup_epochs", "0", "--lr", "1e-3", "--disable_eval")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--opt", "bogus"), "--opt bogus --opt_eps 1e-08: "),
        (("--opt_betas", "0.9"), "--opt_betas 0.9: too few values"),
        (("--opt_betas", "0.9", "2"), "argument --opt_betas: must be a number of at least 0 and below 1, got '2'"),
        (("--opt_betas", "0.9", "1"), "argument --opt_betas: must be a number of at least 0 and below 1, got '1'"),
        (("--opt_eps", "-1"), "argument --opt_eps: must be a number of at least 0, got '-1'"),
        (("--opt_eps", "x"), "argument --opt_eps: must be a number of at least 0, got 'x'"),
        (("--aa", "bogus"), "--aa bogus: "),
        (("--remode", "bogus"), "argument --remode: invalid choice: 'bogus'"),
        (("--smoothing", "1.0"), "argument --smoothing: must be a number of at least 0 and below 1, got '1.0'"),
        (("--color_jitter", "-1", "--aa", ""), "argument --color_jitter: must be a number of at least 0, got '-1'"),
        (("--cutmix_minmax", "0.9", "0.1"), "--cutmix_minmax 0.9 0.1: the least comes first"),
        (("--cutmix_minmax", "0.9", "1.1"), "argument --cutmix_minmax: must be a number from 0 to 1, got '1.1'"),
        (("--log_dir", __file__), "cannot be a folder for TensorBoard"),
    ],
)
def test_refused_values(cli, photos, argv, message):
    code, _, err = cli("finetune", "--data_path", photos, *FINETUNE, *argv)
    assert code == 2 and message in err and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("python -m convnextv2_fast finetune: error: ")


def test_no_policy():
    assert configured("--aa", "none").aa == "" and configured("--aa", "augmix-m3").aa == "augmix-m3"


def test_whose_fault_it_is():
    with pytest.raises(TrainingError, match=r"^--opt x: no$"), blamed("--opt x"):
        raise AssertionError("no")
    with pytest.raises(TrainingError, match=r"^this needs timm$"), blamed("--opt x"):
        raise TrainingError("this needs timm")


def test_the_home_folder(monkeypatch):
    """`--output_dir=~/x` reaches the program as it is."""
    monkeypatch.setenv("HOME", "/home/someone")
    config = configured("--output_dir=~/x", "--finetune=~/y.pth", "--resume", "~/z")
    assert (config.output_dir, config.finetune, config.resume) == (
        "/home/someone/x",
        "/home/someone/y.pth",
        "/home/someone/z",
    )
    assert configured().output_dir == "" and Path(configured("--data_path", "user/set").data_path) == Path("user/set")
