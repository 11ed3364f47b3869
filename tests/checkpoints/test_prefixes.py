"""The network in a state dict is found under any prefix; of several, `prefix` takes one."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convnextv2_fast.checkpoints import CheckpointError, convert_state_dict, detect_format, load_checkpoint
from convnextv2_fast.cli import main

from . import states
from .states import SOURCES, State, same
from .test_load import dense, refused, snapshot

PREFIXES = (
    "net.",
    "backbone.bottom_up.",
    "student.backbone.",
    "visual.trunk.",
    "0.",
    "model.module._orig_mod.net.",
    "_orig_mod.module.model.",
)


def under(prefix: str, state: State) -> State:
    return {prefix + name: x for name, x in state.items()}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_in_every_format(prefix, source):
    state = SOURCES[source]()
    options = {"conv_mlp": False} if source == "timm" else {}
    named = under(prefix, state)
    assert detect_format(named) == source
    same(convert_state_dict(named, target=source, **options), state)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrapped_model_and_a_wrapped_checkpoint(prefix):
    state = states.upstream()
    wrapped = nn.Module()
    wrapped.inner = nn.Module()
    wrapped.inner.net = model = dense()
    assert load_checkpoint(wrapped, {"state_dict": under(prefix, state)}).loaded == len(state)
    same(dict(model.state_dict()), state)


def test_a_head_beside_the_wrapped_body():
    """mmpretrain's classifier in another module: `backbone.` is on the body alone."""
    state = states.mmpretrain()
    same(convert_state_dict(under("net.", state), target="mmpretrain"), state)
    body = {n: x for n, x in states.upstream().items() if not n.startswith("head.")}
    head = {n: x for n, x in states.upstream().items() if n.startswith("head.")}
    same(convert_state_dict(under("net.backbone.", body) | under("net.", head)), body | head)


def twins() -> tuple[State, State]:
    return states.upstream(), {n: x + 1 for n, x in states.upstream().items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("student.", "teacher."),
        ("student.backbone.", "teacher.backbone."),
        ("module.encoder_q.", "module.encoder_k."),
        ("", "ema_model."),
        ("a.", "a.b."),
        ("model.student.", "model._orig_mod.teacher."),
    ],
)
def test_two_networks(one, other):
    first, second = twins()
    both = {"state_dict": under(one, first) | under(other, second) | {"queue": torch.zeros(2, dtype=torch.int64)}}
    text = refused(dense(), both, r"holds 2 networks, under .*; prefix= takes one of them")
    if not one:
        del both["state_dict"]["queue"]  # nothing would say that it is not of the network at the top
    for prefix, state in ((one, first), (other, second)):
        shown = prefix.replace("_orig_mod.", "").replace("backbone.", "")
        assert repr(shown) in text
        for given in {prefix, shown, prefix.removesuffix(".")}:
            model = dense()
            report = load_checkpoint(model, both, prefix=given)
            same(dict(model.state_dict()), state)
            assert report.loaded == len(state) and len(report.dropped) >= len(state) and not report.left_at_init


def test_two_networks_of_formats_with_prefixes_of_their_own():
    both = under("a.", SOURCES["fcmae"]()) | under("b.", states.fcmae())
    with pytest.raises(CheckpointError, match=r"2 networks, under 'a\.', 'b\.'"):
        convert_state_dict(both)
    same(convert_state_dict(both, target="fcmae", prefix="a"), states.fcmae())
    momentum = {n.replace("encoder.", "momentum_encoder.", 1): x for n, x in states.fcmae().items() if "encoder." in n}
    both = states.fcmae() | {n: x for n, x in momentum.items() if n.startswith("momentum")}
    same(convert_state_dict(both, target="fcmae", prefix=""), states.fcmae())


def test_networks_under_keys_of_their_own():
    first, second = twins()
    for checkpoint in ({"student": first, "teacher": second, "epoch": 3}, {"m": {"student": first, "teacher": second}}):
        outer = "m." if "m" in checkpoint else ""
        refused(dense(), checkpoint, rf"2 networks, under '{outer}student\.', '{outer}teacher\.'")
        model = dense()
        load_checkpoint(model, checkpoint, prefix=f"{outer}teacher.")
        same(dict(model.state_dict()), second)
    model = dense()
    load_checkpoint(model, {"weights": first, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}})
    same(dict(model.state_dict()), first)


def test_what_a_prefix_does_not_take():
    state = states.upstream()
    for checkpoint, prefix, message in (
        (under("net.", state), "model.", r"no name begins with the prefix 'model\.'; a ConvNeXt V2 lies under 'net\.'"),
        ({"fc.weight": torch.zeros(3)}, "model.", r"no name begins with the prefix 'model\.'; it holds fc\.weight"),
        (under("net.", state) | {"net.queue": torch.zeros(3)}, "net", r"no place for net\.queue"),
        (under("net.", state) | {"loss.w": torch.zeros(3)}, None, r"no place for loss\.w; prefix='net\.' takes what"),
    ):
        refused(dense(), checkpoint, message, prefix=prefix)
    model = dense()
    report = load_checkpoint(model, under("net.", state) | {"loss.w": torch.zeros(3)}, prefix="net.")
    assert report.dropped == ("loss.w",)


def test_the_report_counts_what_another_network_has():
    first, second = twins()
    report = load_checkpoint(dense(), under("student.", first) | under("teacher.", second), prefix="student.")
    assert str(report).splitlines()[-1] == "not used: teacher.* (70 tensors)"


def test_a_model_may_not_lack_what_another_network_has():
    first, second = twins()
    del first["stages.1.0.norm.weight"]
    both = under("student.", first) | under("teacher.", second)
    refused(dense(), both, "missing from the checkpoint", prefix="student.")
    refused(dense(), both, "missing from the checkpoint", ignore=["teacher."])


def test_averaged_models():
    """torch's and Lightning's moving averages count, in an int64 beside the weights."""
    averaged = AveragedModel(dense())
    averaged.update_parameters(dense())
    model = dense()
    for checkpoint in (averaged.state_dict(), {"ema": averaged.state_dict()}, under("net.", averaged.state_dict())):
        report = load_checkpoint(model, checkpoint)
        assert report.dropped[0].endswith("n_averaged") and not report.left_at_init
        same(dict(model.state_dict()), dict(averaged.module.state_dict()))
    load_checkpoint(averaged, states.upstream())
    same(dict(averaged.module.state_dict()), states.upstream())


def test_a_part_of_the_body_elsewhere_is_foreign():
    model, state = dense(), states.upstream()
    before = snapshot(model)
    named = {("a." if n.startswith("stages.3") else "b.") + n: x for n, x in state.items()}
    refused(model, named, r"no place for a\.stages\.3")
    same(dict(model.state_dict()), before)


def test_the_command_takes_a_prefix(tmp_path, capsys):
    first, second = twins()
    torch.save({"state_dict": under("student.", first) | under("teacher.", second)}, tmp_path / "a.pth")
    call = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--to", "upstream"]
    assert main(call) == 2 and "under 'student.', 'teacher.'" in capsys.readouterr().err
    assert main([*call, "--prefix", "teacher."]) == 0
    same(torch.load(tmp_path / "b.pth")["model"], second)
    assert "70 tensors, upstream to upstream, 70 left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("student", "teacher"), r"2 networks, under 'student\.', 'teacher\.'; pass one of them: model\.student$"),
        (("", "ema"), r"2 networks, under '', 'ema\.'; pass one of them: model\.ema$"),
        (("0", "1"), r"pass one of them: model\.get_submodule\('0'\)$"),
        (
            ("backbone",),
            r"no place for neck\.weight, neck\.bias; pass the part that is a ConvNeXt V2: model\.backbone ",
        ),
        (("a.backbone",), r"no place for .*; pass the part that is a ConvNeXt V2: model\.a "),
    ],
)
def test_a_module_of_which_a_part_must_be_passed(parts, message):
    whole = dense() if "" in parts else torch.nn.Module()
    for part in filter(None, parts):
        outer, _, name = part.rpartition(".")
        if outer:
            whole.add_module(outer, torch.nn.Module())
        whole.get_submodule(outer).add_module(name, dense())
    if len(parts) == 1:
        whole.neck = torch.nn.Conv2d(3, 3, 1)
    text = refused(whole, states.upstream(), message.removesuffix("$"))
    assert "prefix=" not in text and "`ignore`" not in text
