"""The pre-training command in one process: it learns, it is resumed exactly, it refuses what cannot be."""

import os
import re
import resource
import signal
import time

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.checkpoints import remap_checkpoint_keys
from convnextv2_fast.cli import pretrain as cli_pretrain
from convnextv2_fast.train import config, loop, pretraining, saving

from .conftest import PRETRAIN, command, end, finish, losses, records


def model_of(path):
    return saving.read(path)["model"]


class Killed(BaseException):
    """Stands for a process that ends here."""


def kill_after(monkeypatch, steps: int) -> None:
    """The run ends without a word once it has done so many optimizer steps."""
    done, step = [], loop._step

    def counted(*args):
        step(*args)
        done.append(1)
        if len(done) == steps:
            raise Killed

    monkeypatch.setattr(loop, "_step", counted)


@pytest.mark.parametrize(
    "options",
    [
        ("--update_freq", "1"),
        ("--update_freq", "2", "--batch_size", "1", "--clip_grad", "1", "--decay_grn", "false"),
        ("--model_ema", "--model_ema_decay", "0.9", "--use_amp", "--amp_dtype", "float16", "--grad_checkpointing"),
        ("--use_amp", "--num_workers", "1", "--norm_pix_loss", "false", "--grn_scope", "batch", "--in_chans", "1"),
    ],
    ids=["plain", "accumulated", "float16-ema", "bfloat16-workers"],
)
def test_a_killed_run_goes_on_exactly(pretrain, tmp_path, monkeypatch, options):
    """Losses, log and weights are bit for bit those of a run that nobody disturbed."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--epochs", "3", *options)
    pretrain(whole, *options)
    assert len(losses(whole)) == 12 and all(0 < loss < 10 for loss in losses(whole))
    for steps in (7, 2):  # within the second epoch, then behind the checkpoint that its third step left
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, steps)
            pretrain(cut, *options, "--save_ckpt_steps", "3")
    said = pretrain(cut, *options, "--save_ckpt_steps", "3")
    assert "resumed from" in said and "with other arguments" not in said
    assert (cut / "steps.jsonl").read_text() == (whole / "steps.jsonl").read_text()
    assert (cut / "log.txt").read_text() == (whole / "log.txt").read_text()
    one, other = (saving.read(out / "checkpoint-2.pth") for out in (whole, cut))
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    if "--model_ema" in options:
        assert all(torch.equal(v, other["model_ema"][k]) for k, v in one["model_ema"].items())
        assert any(not torch.equal(v, one["model"][k]) for k, v in one["model_ema"].items())


def test_a_signal_saves_the_step_and_ends(cli, photos, pretrain, tmp_path, monkeypatch):
    step, done = loop._step, []

    def interrupted(*args):
        step(*args)
        done.append(1)
        if len(done) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", interrupted)
        code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", tmp_path, "--epochs", "2")
    wrote = tmp_path / "partial-0-2.pth"
    assert code == 130 and wrote.exists()
    assert f"interrupted; wrote {wrote}; the same command resumes from there\n" in err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    pretrain(tmp_path, "--epochs", "2")
    assert [r["step"] for r in records(tmp_path)] == list(range(8)) and not list(tmp_path.glob("partial*"))
    log = (tmp_path / "log.txt").read_bytes()
    said = pretrain(tmp_path, "--epochs", "2")
    assert said.startswith(f"nothing to do: {tmp_path / 'checkpoint-1.pth'} stands at the end of epoch 1")
    assert (tmp_path / "log.txt").read_bytes() == log


def test_what_is_written(pretrain, tmp_path):
    pytest.importorskip("tensorboard")
    said = pretrain(tmp_path / "out", "--epochs", "5", "--save_ckpt_num", "2", "--log_dir", tmp_path / "board")
    assert "images/s" in said and "loss" in said and "left" in said
    epochs = records(tmp_path / "out", "log.txt")
    assert [r["epoch"] for r in epochs] == list(range(5))
    assert set(epochs[0]) == {"train_lr", "train_loss", "epoch", "n_parameters"}
    steps = records(tmp_path / "out")
    assert [r["epoch"] for r in steps] == [e for e in range(5) for _ in range(4)]
    mean = sum(r["loss"] for r in steps[:4]) / 4
    assert epochs[0]["train_loss"] == pytest.approx(mean) and steps[0]["lr"] == 0.0
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.pth")) == ["checkpoint-3.pth", "checkpoint-4.pth"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [e.value for e in board.Scalars("train/loss")] == pytest.approx([r["loss"] for r in steps])


def test_upstreams_fine_tuning_reads_the_checkpoint(pretrain, tmp_path):
    """As its main_finetune.py does: `['model']`, the decoder's keys dropped, remapped, loaded by name."""
    pretrain(tmp_path, "--epochs", "1")
    content = torch.load(tmp_path / "checkpoint-0.pth", weights_only=True)
    assert {"model", "optimizer", "epoch", "scaler", "args"} <= content.keys() and content["epoch"] == 0
    dropped = ("decoder", "mask_token", "proj", "pred")
    state = {k: v for k, v in content["model"].items() if not any(word in k for word in dropped)}
    dense = cf.convnextv2_atto(num_classes=3)
    missing, unexpected = dense.load_state_dict(remap_checkpoint_keys(state), strict=False)
    assert not unexpected and set(missing) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    mae = cf.fcmae.convnextv2_atto(decoder_embed_dim=32, grn_scope="sample").eval()
    mae.load_state_dict(content["model"])
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(dense.eval().forward_features_list(x)[3], mae.encoder(x), rtol=1e-4, atol=1e-4)


def test_resuming_upstreams_checkpoint(pretrain, tmp_path):
    """Without our random states and position: from its last epoch on."""
    pretrain(tmp_path / "a", "--epochs", "2")
    content = saving.read(tmp_path / "a/checkpoint-0.pth")
    del content["run"]
    import argparse

    content["args"] = argparse.Namespace(**content["args"])
    torch.save(content, tmp_path / "theirs.pth")
    said = pretrain(tmp_path / "b", "--epochs", "2", "--resume", tmp_path / "theirs.pth")
    assert "resumed from" in said and [r["step"] for r in records(tmp_path / "b")] == [4, 5, 6, 7]
    assert losses(tmp_path / "b") == losses(tmp_path / "a")[4:]


def test_resume_goes_before_the_folder_but_not_in_a_restart(pretrain, tmp_path, monkeypatch):
    pretrain(tmp_path / "a", "--epochs", "1")
    pretrain(tmp_path / "b", "--epochs", "3")
    options = ("--epochs", "3", "--resume", tmp_path / "a/checkpoint-0.pth")
    assert f"resumed from {tmp_path / 'a'}" in pretrain(tmp_path / "b", *options)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert f"nothing to do: {tmp_path / 'b/checkpoint-2.pth'}" in pretrain(tmp_path / "b", *options)


def test_another_batch_size_goes_on_at_the_same_sample(pretrain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 3)
        pretrain(tmp_path, "--epochs", "1", "--save_ckpt_steps", "2", "--batch_size", "2")
    said = pretrain(tmp_path, "--epochs", "1", "--batch_size", "4")
    assert "with other arguments: batch_size 2 -> 4" in said
    assert [r["step"] for r in records(tmp_path)][-1] == 1


def test_unreadable_images_are_counted_and_named(pretrain, cli, photos, tmp_path):
    for i, path in enumerate(sorted((photos / "train").rglob("*.png"))):
        (tmp_path / f"{i}.png").write_bytes(path.read_bytes() if i != 4 else b"damaged")
    options = (*PRETRAIN, "--output_dir", tmp_path / "out", "--epochs", "3")
    code, _, err = cli("pretrain", "--data_path", tmp_path, *options)
    assert code == 0 and err.count("unreadable image left out") == 1 and "4.png: cannot identify" in err
    assert records(tmp_path / "out", "log.txt")[-1]["unreadable"] == 1


def test_ctrl_c_in_a_terminal(photos, tmp_path):
    """It reaches the loader processes, too, which must leave the decision to the main one."""
    options = ("--epochs", "500", "--num_workers", "1", "--output_dir", tmp_path)
    process = command("pretrain", "--data_path", photos, *PRETRAIN, *options, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "steps.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert re.search(rf"interrupted; wrote {tmp_path}/(partial|checkpoint)-\S+; the same command resumes", said), said


def test_a_full_disk_does_not_end_the_run(photos, tmp_path):
    """It goes on with its older checkpoint, says so, and its exit code tells."""
    base = ("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", tmp_path)
    finish(command(*base, "--epochs", "1"))
    before = (tmp_path / "checkpoint-0.pth").read_bytes()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))  # noqa: E731
    process = command(*base, "--epochs", "3", preexec_fn=limit)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert said.count("cannot save") == 3 and "training continues" in said
    assert [r["epoch"] for r in records(tmp_path, "log.txt")] == [0, 1, 2]
    assert [p.name for p in tmp_path.glob("*.pth")] == ["checkpoint-0.pth"]
    assert (tmp_path / "checkpoint-0.pth").read_bytes() == before
    finish(command(*base, "--epochs", "3"))
    assert [r["step"] for r in records(tmp_path)] == list(range(12)) and (tmp_path / "checkpoint-2.pth").exists()


def test_timing_of_layers(pretrain, tmp_path):
    said = pretrain(tmp_path, "--epochs", "3", "--time_layers", "2")
    table = said[said.index("milliseconds a step, mean of 2:") :].splitlines()
    names = [line.split()[0] for line in table[1:17]]
    assert names[0] == "encoder.stages.0.0" and names[-4:] == ["proj", "decoder.0", "elsewhere", "step"]
    encoder = [line.split() for line in table if "encoder" in line]
    assert len(encoder) == 12 and all(float(cell) > 0 for line in encoder for cell in (line[1], line[3]))


def test_a_loss_that_is_no_number_ends_the_run(cli, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_loss", lambda model, *_: model.mask_token.sum() * float("nan"))
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", tmp_path, "--epochs", "1")
    assert code == 2 and "the loss is nan at epoch 0, step 0" in err and "--init std02" in err
    assert not list(tmp_path.glob("*.pth"))


def test_defaults_are_upstreams():
    import argparse

    commands = argparse.ArgumentParser().add_subparsers()
    cli_pretrain.add_parser(commands)
    found = vars(cli_pretrain.config(commands.choices["pretrain"].parse_args(["--data_path", "x"])))
    want = {
        "batch_size": 64,
        "epochs": 800,
        "warmup_epochs": 40,
        "update_freq": 1,
        "model": "convnextv2_base",
        "input_size": 224,
        "mask_ratio": 0.6,
        "norm_pix_loss": True,
        "decoder_depth": 1,
        "decoder_embed_dim": 512,
        "weight_decay": 0.05,
        "lr": None,
        "blr": 1.5e-4,
        "min_lr": 0.0,
        "seed": 0,
        "auto_resume": True,
        "save_ckpt": True,
        "save_ckpt_freq": 1,
        "save_ckpt_num": 3,
        "start_epoch": 0,
        "num_workers": config.workers(),  # as many as there are cores, at most upstream's 10
        "pin_mem": True,
        "grn_scope": "batch",
        "init": "upstream",
        "decay_grn": True,
    }
    assert {k: found[k] for k in want} == want


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--data_path", "nowhere"), "nowhere: there is no such folder of images"),
        (("--batch_size", "64"), "9 images are too few for a step of 64"),
        (("--input_size", "80"), "--input_size must be a multiple of 32, got 80"),
        (("--mask_ratio", "0"), "removes none of 4 patches"),
        (("--mask_ratio", "1.5"), "argument --mask_ratio: must be a number from 0 to 1, got '1.5'"),
        (("--patch_size", "24"), "patch_size must be 4 x 2**k"),
        (("--model", "huger"), "argument --model: must be one of convnextv2_atto, convnextv2_femto"),
        (("--norm_pix_loss", "maybe"), "argument --norm_pix_loss: must be true or false, got 'maybe'"),
        (("--crop_pct", "0.9"), "--crop_pct has no meaning in pre-training"),
        (("--dist_on_itp",), "--dist_on_itp is for a cluster of Microsoft's; start the processes with torchrun"),
        (("--world_size", "4"), "--world_size is set by torchrun"),
        (("--blr", "-1"), "argument --blr: must be a number of at least 0, got '-1'"),
        (("--resume", "none.pth"), "none.pth: no such file"),
        (("--data_set", "wds", "--data_path", "none-{0..1}.tar"), "say how many images make an epoch"),
        (("--epoch_samples", "5"), "--epoch_samples is for streams"),
        (("--parallel", "fsdp"), "start it with torchrun"),
        (("--device", "toaster"), "toaster"),
    ],
)
def test_bad_arguments(cli, photos, argv, message):
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, *argv)
    assert code == 2 and message in err and "Traceback" not in err and err.count("\n") == 1, err


def test_checkpoints_of_another_kind(cli, photos, pretrain, tmp_path):
    pretrain(tmp_path, "--epochs", "1")
    content = saving.read(tmp_path / "checkpoint-0.pth")
    kinds = {
        "finetune": ({**content, "run": {**content["run"], "task": "finetune"}}, "was written by finetune"),
        "weights": ({"model": content["model"]}, "holds weights only"),
        "model": ({**content, "model": {"w": torch.ones(1)}}, "holds another model than this run's"),
    }
    for name, (changed, message) in kinds.items():
        torch.save(changed, tmp_path / f"{name}.pth")
        options = ("--resume", tmp_path / f"{name}.pth", "--epochs", "2")
        code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, *options)
        assert code == 2 and message in err, err
