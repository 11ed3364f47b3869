"""Steps of the training commands as graphs, on a tape in the place of CUDA."""

import pytest
import torch

from convnextv2_fast.graphs import capture
from convnextv2_fast.models import _masks
from convnextv2_fast.train import saving
from tests.graphs.tape import Recorder

from .conftest import PRETRAIN, SMALL, losses
from .test_pretrain import Killed, kill_after


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setattr(capture, "recorder", made)
    monkeypatch.setattr(_masks, "_readable", lambda mask: False)  # a mask on a GPU is not
    return made


@pytest.fixture
def finetune(cli, photos):
    def run(out, *argv):
        options = ("--model", "atto", *SMALL, "--lr", "1e-3", "--warmup_epochs", "1", "--epochs", "2", "--disable_eval")
        code, _, err = cli("finetune", "--data_path", photos, *options, "--output_dir", out, *argv)
        assert code == 0, err
        return err

    return run


def form(content):
    """What a checkpoint is made of, without the numbers."""
    if isinstance(content, dict):
        return {key: form(value) for key, value in content.items()}
    if isinstance(content, list):
        return [form(value) for value in content]
    return (content.dtype, content.shape, content.device) if isinstance(content, torch.Tensor) else type(content)


def close(one, other):
    """Fused optimizers round otherwise."""
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    a, b = (saving.read(out / "checkpoint-1.pth") for out in (one, other))
    assert form(a) == form(b)
    for name, value in a["model"].items():
        torch.testing.assert_close(value, b["model"][name], rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--update_freq", "2", "--batch_size", "1", "--clip_grad", "1", "--model_ema", "--use_amp"),
        ("--use_amp", "--amp_dtype", "float16"),
    ],
    ids=["plain", "accumulated", "float16"],
)
def test_pretraining(pretrain, recorder, tmp_path, options):
    options = ("--epochs", "2", *options)
    said = pretrain(tmp_path / "eager", "--cuda_graph", "false", *options)
    assert not recorder.recordings and not recorder.asides and "CUDA graph" not in said
    said = pretrain(tmp_path / "graphs", *options)
    made = 3 if "--update_freq" in options else 2  # the first part, the others, the update
    assert len(recorder.recordings) == made and recorder.recordings[-1].replays == 5
    assert "CUDA graph" not in said
    close(tmp_path / "graphs", tmp_path / "eager")


def test_a_killed_run_goes_on_exactly(pretrain, recorder, tmp_path, monkeypatch):
    """And with the other kind of steps from the same checkpoint, within rounding."""
    whole, cut, other = tmp_path / "whole", tmp_path / "cut", tmp_path / "other"
    options = ("--epochs", "2", "--save_ckpt_steps", "3", "--model_ema")
    pretrain(whole, *options)
    for out, graphs in ((cut, "true"), (other, "false")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, 7)
            pretrain(out, *options, "--cuda_graph", graphs)
    said = pretrain(cut, *options)
    assert "resumed from" in said and "with other arguments" not in said
    assert losses(cut) == losses(whole)
    one, two = (saving.read(out / "checkpoint-1.pth") for out in (whole, cut))
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    said = pretrain(other, *options)  # an eager run's checkpoint, continued by graphs
    assert "resumed from" in said and "with other arguments" not in said
    close(other, whole)


@pytest.mark.parametrize(
    ("options", "made", "reason"),
    [
        (("--mixup", "0.8", "--cutmix", "1", "--drop_path", "0.2", "--layer_decay", "0.8", "--model_ema"), 2, None),
        (("--opt", "sgd", "--clip_grad", "1"), 2, None),
        (("--opt", "lamb"), 1, "Lamb has no form that is known to stay on the device"),
        (("--weight_decay_end", "0.5"), 1, "weight decay, or another number of the update, changes"),
        (("--grad_checkpointing",), 0, "activation checkpointing is on in the model"),
    ],
    ids=["mixup", "sgd", "lamb", "weight-decay", "checkpointing"],
)
def test_finetuning(finetune, recorder, tmp_path, options, made, reason):
    said = finetune(tmp_path / "graphs", *options)
    assert len(recorder.recordings) == made
    lines = [line for line in said.splitlines() if "CUDA graph" in line]
    assert len(lines) == (reason is not None) and (reason or "") in "".join(lines)
    finetune(tmp_path / "eager", "--cuda_graph", "false", *options)
    close(tmp_path / "graphs", tmp_path / "eager")


def test_timed_steps_are_eager(pretrain, recorder, tmp_path):
    said = pretrain(tmp_path, "--epochs", "3", "--time_layers", "2")
    assert "milliseconds a step, mean of 2" in said and said.count("a hook is registered on") == 1
    assert [r.replays for r in recorder.recordings] == [7, 7]


def test_a_step_that_no_graph_holds_ends_with_a_way_out(cli, photos, recorder, tmp_path, monkeypatch):
    monkeypatch.undo()  # a mask that is read back
    monkeypatch.setattr(capture, "recorder", recorder)
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--epochs", "1", "--output_dir", tmp_path)
    assert code == 2 and "error: a step cannot be captured as a CUDA graph: Read" in err
    assert err.strip().endswith("give --cuda_graph false")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize(
    "options", [(), ("--update_freq", "2", "--batch_size", "1", "--clip_grad", "1", "--model_ema")]
)
def test_on_a_gpu(pretrain, tmp_path, options):
    options = ("--epochs", "3", "--device", "cuda", *options)
    assert "CUDA graph" not in pretrain(tmp_path / "graphs", *options)
    pretrain(tmp_path / "eager", "--cuda_graph", "false", *options)
    assert losses(tmp_path / "graphs") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)
