"""`reconstruct` and `curve`: what is drawn, and what is refused."""

import json

import pytest
import torch

from convnextv2_fast.models.fcmae import FCMAE
from convnextv2_fast.train import curves, pictures, saving

TINY = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 40], "decoder_embed_dim": 16, "init": "std02"}


def checkpoint(path, **options):
    torch.manual_seed(0)
    model = FCMAE(**TINY, **options)
    args = {"norm_pix_loss": model.norm_pix_loss, "grn_scope": options.get("grn_scope", "batch")}
    saving.write({"model": model.state_dict(), "args": args}, path)
    return model


MODELS = [{}, {"in_chans": 1, "patch_size": 16}, {"decoder_depth": 2, "grn_scope": "sample"}]


@pytest.mark.parametrize("options", MODELS)
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_panels(tmp_path, options, norm_pix_loss):
    model = checkpoint(tmp_path / "m.pth", norm_pix_loss=norm_pix_loss, **options)
    again = pictures.rebuild(saving.read(tmp_path / "m.pth"), tmp_path / "m.pth")
    assert again.norm_pix_loss == norm_pix_loss and again.encoder.grn_scope == options.get("grn_scope", "batch")
    x = torch.rand(1, model.in_chans, 64, 64)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in pictures.mean_and_std(model.in_chans))
    side = 64 // model.patch_size
    mask = torch.ones(1, side * side)
    mask[0, 1] = 0
    (original, masked, painted, pasted), loss = pictures.panels(again, (x - mean) / std, mask)
    p = model.patch_size
    torch.testing.assert_close(original, x[0].permute(1, 2, 0))
    for picture in (masked, pasted):
        torch.testing.assert_close(picture[:p, p : 2 * p], original[:p, p : 2 * p])
    assert torch.equal(pasted[p:], painted[p:]) and (masked[p:] - 0.5).abs().max() < 1e-6
    want = model.eval()((x - mean) / std, mask=mask)
    assert loss == pytest.approx(want[0].item(), rel=1e-5)
    rows = want[1].flatten(2).transpose(1, 2)
    if norm_pix_loss:
        patches = model.patchify((x - mean) / std)
        rows = rows * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    pixels = (model.unpatchify(rows) * std + mean).clamp(0, 1)
    torch.testing.assert_close(painted, pixels[0].permute(1, 2, 0), rtol=1e-4, atol=1e-5)


def test_reconstruct_writes_a_picture(cli, photos, tmp_path):
    from PIL import Image

    checkpoint(tmp_path / "m.pth", norm_pix_loss=True)
    image = sorted((photos / "train").rglob("*.png"))[0]
    code, out, err = cli("reconstruct", tmp_path / "m.pth", image, "--out", tmp_path / "r.png", "--size", "64")
    assert code == 0 and out.startswith(f"wrote {tmp_path / 'r.png'}: loss "), err
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (1200, 350) and len(picture.convert("RGB").getcolors(1 << 20)) > 200
    drawn = {}
    for seed in (0, 1, 2, 3):
        options = ("--out", tmp_path / f"{seed}.png", "--size", "64", "--seed", seed)
        assert cli("reconstruct", tmp_path / "m.pth", image, *options)[0] == 0
        drawn[seed] = (tmp_path / f"{seed}.png").read_bytes()
    assert drawn[0] == (tmp_path / "r.png").read_bytes() and len(set(drawn.values())) > 1


def test_a_sheet(cli, photos, tmp_path):
    """A folder is drawn at the checkpoint's own size without what cannot be read; a row depends on its image alone."""
    from PIL import Image

    torch.manual_seed(0)
    model = FCMAE(**TINY)
    saving.write({"model": model.state_dict(), "args": {"input_size": 96}}, tmp_path / "m.pth")
    folder, out = tmp_path / "images", tmp_path / "sheet.png"
    folder.mkdir()
    for i, file in enumerate(sorted(photos.rglob("*.png"))[:4]):
        (folder / f"{i}.png").write_bytes(b"no image" if i == 2 else file.read_bytes())
    code, said, err = cli("reconstruct", tmp_path / "m.pth", folder, "--out", out)
    assert code == 1 and said.endswith(", mean of 3 images\n") and "2.png: cannot be read as an image" in err
    with Image.open(out) as sheet:
        assert sheet.size == (1200, 950)
    code, said, err = cli(
        "reconstruct", tmp_path / "m.pth", folder / "0.png", folder / "1.png", "--limit", "1", "--out", out
    )
    assert code == 0 and "the first 1 of 2 images are drawn" in err
    shown = {"limit": 9, "warn": print, "note": print, "mask_ratio": 0.6, "seed": 0, "norm_pix_loss": None, "out": out}
    rows = pictures.reconstruct(tmp_path / "m.pth", [folder], size=None, **shown)
    assert rows[0].patches == 9 and rows[0].pictures[0].shape == (96, 96, 3)
    alone = pictures.reconstruct(tmp_path / "m.pth", [folder / "0.png"], size=None, **shown)
    assert all(torch.equal(a, b) for a, b in zip(rows[0].pictures, alone[0].pictures, strict=True))
    assert not torch.equal(rows[0].pictures[1] == rows[0].pictures[0], rows[1].pictures[1] == rows[1].pictures[0])


def test_what_cannot_be_reconstructed(cli, photos, tmp_path):
    checkpoint(tmp_path / "m.pth")
    image = sorted((photos / "train").rglob("*.png"))[0]
    (tmp_path / "bad.png").write_bytes(b"no image")
    encoder = {k: v for k, v in saving.read(tmp_path / "m.pth")["model"].items() if k.startswith("encoder.")}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    cases = [
        (("encoder.pth", image), "holds no masked autoencoder with its decoder"),
        (("none.pth", image), "none.pth: no such file"),
        (("bad.png", image), "bad.png: truncated, corrupt, or no file of torch.save"),
        (("m.pth", tmp_path / "bad.png"), "bad.png: cannot be read as an image"),
        (("m.pth", image, "--size", "80"), "--size 80: must be a multiple of 32"),
        (("m.pth", image, "--mask_ratio", "0"), "removes none of 4 patches"),
        (("m.pth", image, "--out", tmp_path / "none/r.png"), "cannot write"),
    ]
    for (name, *rest), message in cases:
        code, _, err = cli("reconstruct", tmp_path / name, *rest, *(() if "--size" in rest else ("--size", "64")))
        assert code == 2 and message in err and err.count("\n") == 1, err


def test_curves(cli, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": i, "epoch": 0, "loss": 2.0 / (i + 1), "lr": 0.1}) for i in range(30)]
        (tmp_path / name / "steps.jsonl").write_text("\n".join(lines) + '\n{"step": 30, "lo')  # cut off
    (tmp_path / "log.txt").write_text('{"train_loss": 3.0, "epoch": 0}\n{"train_loss": 2.0, "epoch": 1}\n')
    assert curves.read(tmp_path / "a") == ("step", list(range(30)), [2.0 / (i + 1) for i in range(30)])
    assert curves.read(tmp_path / "log.txt") == ("epoch", [0, 1], [3.0, 2.0])
    assert curves.running_mean([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert curves.running_mean([float(i) for i in range(40)])[-1] == 38.5
    code, _, err = cli("curve", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c.png", "--log_scale")
    assert code == 0 and (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG", err
    cases = [
        ((tmp_path / "a", tmp_path / "log.txt"), "some logs count steps, some epochs"),
        ((tmp_path / "none",), "cannot read it"),
        ((tmp_path / "c.png",), "no line has a loss"),
    ]
    for paths, message in cases:
        code, _, err = cli("curve", *paths, "--out", tmp_path / "d.png")
        assert code == 2 and message in err, err
    (tmp_path / "log.txt").write_text("{}\n")
    assert "no line has a loss" in cli("curve", tmp_path / "log.txt")[2]
