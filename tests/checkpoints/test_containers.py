"""Where in a checkpoint the state dict lies, and mappings that lie in themselves or too deep."""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from convnextv2_fast.checkpoints import load_checkpoint, numpy_values, read_state_dict
from convnextv2_fast.checkpoints.files import read_file

from . import states
from .states import same
from .test_load import dense, refused

STATE = states.upstream()


def nested(levels: int, inner) -> dict:
    for _ in range(levels):
        inner = {"model": inner}
    return inner


def cyclic(**rest) -> dict:
    x = {**rest}
    x["model"] = x
    return x


def mutual(inner) -> dict:
    a, b = {}, {"module": inner}
    a["model"], b["model"] = b, a
    return a


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (cyclic(), "holds no weights: what lies under model contains itself"),
        (cyclic(epoch=3), "holds no weights: what lies under model contains itself"),
        (mutual({}), "holds no weights: what lies under model.model contains itself"),
        (nested(17, STATE), "holds no weights within 16 mappings"),
        (nested(100, STATE), "holds no weights within 16 mappings"),
        (nested(3, {"epoch": 1}), "holds no weights: under model.model.model it holds 'epoch'"),
    ],
)
def test_without_end(tmp_path, checkpoint, message):
    refused(dense(), checkpoint, message)
    torch.save(checkpoint, tmp_path / "a.pth")
    refused(dense(), tmp_path / "a.pth", message)


def test_deeper_than_the_interpreters_stack(tmp_path):
    refused(dense(), nested(100_000, STATE), "holds no weights within 16 mappings")
    levels, path = 100_000, tmp_path / "a.pth"
    torch.save({}, path)
    with zipfile.ZipFile(path) as made:
        members = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(path, "w") as made:
        for name, data in members.items():
            deep = b"\x80\x02" + b"}X\x05\0\0\0model" * levels + b"}" + b"s" * levels + b"."
            made.writestr(name, deep if name.endswith("data.pkl") else data)
    refused(dense(), path, "holds no weights within 16 mappings")


@pytest.mark.parametrize(
    "checkpoint",
    [
        nested(16, STATE),
        cyclic(state_dict=STATE),
        mutual(STATE),
        {"model": {"depths": [3, 3]}, "state_dict": STATE},  # a description of the model
        {"model": {"name": "tiny"}, "weights": STATE},
        {"ema": {"decay": 0.9}, "model": STATE},
        {"params": {"lr": 0.1}, "net": STATE},
    ],
)
def test_what_holds_no_weights_is_passed_over(checkpoint):
    same(
        read_state_dict(checkpoint), STATE if "weights" not in checkpoint else {f"weights.{n}": STATE[n] for n in STATE}
    )


def test_many_keys_to_one_mapping_take_no_time():
    """Each mapping is looked into once, however many ways lead to it."""
    x: dict = {}
    for _ in range(16):
        x = {key: x for key in ("model", "state_dict", "module", "net", "params", "ema", "other")}
    refused(dense(), x, "holds no weights")


# ---- numpy beside the weights, and in their place ----


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
@pytest.mark.parametrize(
    "value",
    [
        np.float64(1.5),
        np.float32(-2.5),
        np.int64(-3),
        np.uint8(200),
        np.bool_(True),
        np.dtype(">f8").type(0.25),
    ],
    ids=repr,
)
def test_numbers_of_numpy(tmp_path, value, module):
    path = tmp_path / "a.pth"
    torch.save(
        {"state_dict": STATE, "best": value, "args": {"lr": [value]}}, path, _use_new_zipfile_serialization=False
    )
    data = path.read_bytes()
    written = type(value).__reduce__(value)[0].__module__
    path.write_bytes(data.replace(f"c{written}\nscalar".encode(), f"c{module}\nscalar".encode()))
    same(read_state_dict(path), STATE)
    content = read_file(path)
    assert content["best"] == value == content["args"]["lr"][0] and type(content["best"]) in (float, int, bool)


def test_other_things_of_numpy_are_there_and_hold_nothing(tmp_path):
    beside = {
        "random": np.random.RandomState(0).get_state(),
        "text": np.str_("abc"),
        "times": np.array([1.0, 2.0]),
        "date": np.datetime64("2020-01-01"),
        "type": np.dtype("f4"),
    }
    torch.save({"model": STATE, **beside}, tmp_path / "a.pth")
    same(read_state_dict(tmp_path / "a.pth"), STATE)


def test_numpy_does_not_let_other_objects_in(tmp_path):
    torch.save({"model": STATE, "best": np.float64(1), "where": Path("a")}, tmp_path / "a.pth")
    text = refused(dense(), tmp_path / "a.pth", "holds Python objects that may run code when read")
    assert "numpy." not in text and "Path" in text


@pytest.mark.parametrize(
    "args", [(), ("f8",), (numpy_values.NumpyType("f8"), b"1"), (numpy_values.NumpyType("O"), b"12345678"), (1, 2, 3)]
)
def test_crafted_values_reach_nothing(args):
    for stand_in in numpy_values.STAND_INS.values():
        made = stand_in(*args)
        assert isinstance(made, numpy_values.NumpyType | numpy_values.NumpyValue)
        made.__setstate__(args)


def test_what_the_program_allows_stays_allowed(tmp_path):
    torch.save({"model": STATE, "args": argparse.Namespace(best=1)}, tmp_path / "a.pth")
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([argparse.Namespace])
        read_state_dict(tmp_path / "a.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_weights_in_numpy(tmp_path):
    arrays = {n: x.numpy() for n, x in STATE.items()}
    torch.save({"model": arrays}, tmp_path / "a.pth")
    for checkpoint in (arrays, {"model": arrays}, tmp_path / "a.pth"):
        refused(dense(), checkpoint, r"holds numpy arrays, not tensors; pass .*torch\.from_numpy")


# ---- several files ----


@pytest.fixture(params=["safetensors", "bin"])
def index(request, tmp_path) -> Path:
    from safetensors.torch import save_file

    names, kind = list(STATE), request.param
    stem = "model" if kind == "safetensors" else "pytorch_model"
    table = {}
    for i, part in enumerate((names[0::2], names[1::2])):
        file = f"{stem}-{i + 1:05}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)({n: STATE[n] for n in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    path = tmp_path / f"{stem}.{kind}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {n: table[n] for n in names}}))
    return path


def test_several_files(index):
    got = read_state_dict(index)
    same(got, STATE)
    assert list(got) == list(STATE)
    assert load_checkpoint(dense(), index).checkpoint == str(index)
    refused(dense(), index.parent, f"is a directory; give the file in it, such as {index.name}$")


def change(index: Path, name: str, file: object) -> None:
    content = json.loads(index.read_text())
    content["weight_map"][name] = file
    index.write_text(json.dumps(content))


def test_damaged_indices(index):
    whole = index.read_text()
    file = json.loads(whole)["weight_map"]["head.bias"]
    for damage, message in (
        (lambda: change(index, "head.bias", "missing.bin"), "the file missing.bin, which it names, is not beside it"),
        (lambda: change(index, "head.other", file), f"head.other should be in {file}, and is not"),
        (lambda: change(index, "head.bias", f"../{index.parent.name}/{file}"), "files of a checkpoint lie beside its"),
        (lambda: change(index, "head.bias", str(index.parent / file)), "files of a checkpoint lie beside its index"),
        (lambda: change(index, "head.bias", ".."), "files of a checkpoint lie beside its index"),
        (lambda: change(index, "head.bias", 3), "no weight_map of names to files"),
        (lambda: index.write_text(whole[:50]), "truncated, corrupt, or no JSON"),
        (lambda: index.write_text("[" * 100_000), "truncated, corrupt, or no JSON"),
        (lambda: index.write_bytes(b"\xff\xfe\x00"), "truncated, corrupt, or no JSON"),
        (lambda: index.write_text('{"architectures": []}'), "no index of a checkpoint"),
        (lambda: index.write_text('{"weight_map": {}}'), "no index of a checkpoint"),
        (lambda: index.write_text("[1]"), "no index of a checkpoint"),
    ):
        index.write_text(whole)
        damage()
        text = refused(dense(), index, message)
        assert text.startswith(f"{index}: ") and "\n" not in text
    index.write_text(whole)
    shard = index.parent / file
    shard.write_bytes(shard.read_bytes()[:200])
    assert refused(dense(), index, "truncated, corrupt, or no").startswith(f"{shard}: ")
    shard.write_bytes(b"")
    refused(dense(), index, "the file is empty")


# ---- what is no file ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://dl.fbaipublicfiles.com/a/tiny.pt?x=1", r"is a URL.*torch\.hub\.download_url_to_file\('https://dl.*'tiny\.pt'\)"),
        (Path("https://dl.fbaipublicfiles.com/a/tiny.pt"), r"is a URL.*'https://dl\.fbaipublicfiles\.com/a/tiny\.pt'"),
        ("http://host/" + "a" * 5000, "is a URL"),
        ("s3://bucket/a.pth", "is a URL"),
        ("file:///a.pth", "is a URL"),
        ("C:/no/such/file.pth", "no such file"),
        ("a" * 5000, "no such file"),
        ("a\0b", "no such file"),
    ],
)  # fmt: skip
def test_urls_and_impossible_paths(given, message):
    refused(dense(), given, message)


def test_directories_say_what_to_give(tmp_path):
    refused(dense(), tmp_path, "is a directory; give the file in it, such as model.safetensors or pytorch_model.bin")
    for name in ("b.pth", "a.ckpt", "config.json"):
        (tmp_path / name).touch()
    refused(dense(), tmp_path, r"such as a\.ckpt, b\.pth$")
    (tmp_path / ".metadata").touch()
    refused(dense(), tmp_path, "dcp_to_torch_save makes one file of it")


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (lambda body, head: {"backbone": body, "head": head, "epoch": 3}, ("head.weight", "head.bias")),
        (lambda body, head: {"model": body, "head": head}, ("head.weight", "head.bias")),
        (lambda body, head: {"state_dict": {"net": body, "fc": head}}, ("state_dict.fc.weight", "state_dict.fc.bias")),
        (lambda body, head: {"weights": {"backbone": body, "fc": head}}, ("weights.fc.weight", "weights.fc.bias")),
    ],
)
def test_what_lies_beside_the_network_is_named(checkpoint, names):
    body = {n: x for n, x in STATE.items() if not n.startswith(("head.", "norm."))}
    head = {n.removeprefix("head."): x for n, x in STATE.items() if n.startswith("head.")}
    report = load_checkpoint(dense(), checkpoint(body, head))
    assert report.loaded == len(body) and report.dropped == names
    assert f"not used: {', '.join(names)}" in str(report)
