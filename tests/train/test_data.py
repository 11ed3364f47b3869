"""Where samples come from, in which order, and what is said when they cannot be read."""

import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch

from convnextv2_fast.train import (
    PretrainConfig,
    TrainingError,
    augment,
    data,
    images,
    pictures,
    pretraining,
    streams,
    tables,
)
from convnextv2_fast.train import hub as hub_tables
from convnextv2_fast.train.finetune_config import Preprocessing
from convnextv2_fast.train.parallel import Processes
from convnextv2_fast.train.saving import Position

CPU = torch.device("cpu")


def steps(rank=0, size=1, batch=2, accumulate=1, start=(0, 0), epochs=2, per_epoch=2, seed=0) -> data.Steps:
    return data.Steps(batch, accumulate, Processes(rank, size, CPU), seed, epochs, per_epoch, Position(*start))


def batches(photos, s: data.Steps, workers: int = 0) -> list[data.Batch]:
    table = tables.Folder(photos / "train")
    return list(data.training_batches(table, pretraining.transform(32, 3), s, workers, pin=False))


def test_folder(photos):
    table = tables.Folder(photos / "train", labelled=True)
    assert table.classes == ["chelsea", "coffee", "rocket"] and len(table) == 9
    assert table.read(8)[1] == 2 and table.read(8)[0].size == (96, 80) and table.name(8).endswith("2.png")
    assert len(tables.Folder(photos)) == 12  # any depth
    assert tables.Folder(photos / "train", 1).read(0)[0].mode == "L"


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(TrainingError, match="there is no such folder"):
        tables.Folder(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match=r"holds no images \(\.jpg"):
        tables.Folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(TrainingError, match="1 of its class folders hold no image: a"):
        tables.Folder(tmp_path, labelled=True)


def test_hidden_files_and_folders_are_left_out(photos, tmp_path):
    for name in ("cat", "dog"):
        shutil.copytree(photos / "val/coffee", tmp_path / name)
    shutil.copytree(photos / "val/coffee", tmp_path / ".ipynb_checkpoints")
    shutil.copytree(photos / "val/coffee", tmp_path / "cat/.thumbnails")
    (tmp_path / "cat/._3.png").write_bytes(b"of macOS")
    table = tables.Folder(tmp_path, labelled=True)
    assert table.classes == ["cat", "dog"] and table.labels == [0, 1]
    assert len(tables.Folder(tmp_path)) == 2
    assert tables.expand([tmp_path / "cat/._3.png"]) == [tmp_path / "cat/._3.png"]  # as it is given


def test_links_that_lead_back(photos, tmp_path):
    """Each folder is visited once; a link to another place is followed."""
    shutil.copytree(photos / "train/coffee", tmp_path / "train/cat")
    shutil.copytree(photos / "train/rocket", tmp_path / "train/dog")
    (tmp_path / "train/cat/up").symlink_to("..")
    (tmp_path / "train/cat/again").symlink_to(".")
    (tmp_path / "train/dog/more").symlink_to(photos / "val/rocket")
    table = tables.Folder(tmp_path / "train", labelled=True)
    assert table.labels == [0] * 3 + [1] * 4 and table.classes == ["cat", "dog"]
    assert len(tables.Folder(tmp_path / "train")) == 7
    (tmp_path / "link").symlink_to("train")
    assert len(tables.Folder(tmp_path / "link", labelled=True)) == 7


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1)])
def test_thin_lines_are_cut_before_they_are_resized(size):
    """Else 224 pixels of the shorter side would make gigabytes."""
    from PIL import Image

    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (*(side // 2 for side in size), *(side // 2 + 1 for side in size)))
    cut = images.middle(image)
    assert sorted(cut.size) == [1, 50] and sorted(cut.getcolors()) == [(1, (255, 0, 0)), (49, (0, 0, 0))]
    whole = Image.new("RGB", (50, 1))
    assert images.middle(whole) is whole
    assert augment.evaluation_transform(Preprocessing(input_size=64), 3)(image).shape == (3, 64, 64)
    assert pretraining.transform(64, 3).plain(image).shape == (3, 64, 64)
    assert pictures.prepare(image, 64, 3).shape == (1, 3, 64, 64)


def test_images_smaller_than_the_crop_are_enlarged(tmp_path):
    from PIL import Image

    Image.new("RGB", (1, 3), (255, 0, 0)).save(tmp_path / "dot.png")
    s = steps(batch=1, per_epoch=1)
    found = list(data.training_batches(tables.Folder(tmp_path), pretraining.transform(64, 3), s, 0, False))
    assert found[0].images.shape == (1, 3, 64, 64) and found[0].images.isfinite().all()


@pytest.mark.parametrize("workers", [0, 2])
def test_order_is_the_seeds_alone(photos, workers):
    whole = batches(photos, steps(batch=4), workers)
    halves = [batches(photos, steps(rank, 2), workers) for rank in (0, 1)]
    parts = batches(photos, steps(batch=2, accumulate=2), workers)
    assert len(whole) == 4 and len(parts) == 8
    for i, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([half[i].images for half in halves]))
        assert torch.equal(batch.images, torch.cat([p.images for p in parts[2 * i : 2 * i + 2]]))
    later = batches(photos, steps(batch=4, start=(1, 1)), workers)
    assert len(later) == 1 and torch.equal(later[0].images, whole[3].images)
    other = batches(photos, steps(batch=4, seed=1), workers)
    assert not torch.equal(other[0].images, whole[0].images)


def test_loading_leaves_the_runs_random_numbers_alone(photos):
    def draws():
        return torch.rand(1).item(), random.random(), numpy.random.rand()

    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    want = draws()
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    batches(photos, steps())
    assert draws() == want


def test_unreadable_images_are_replaced_and_named(photos, tmp_path):
    for i, path in enumerate(sorted((photos / "train").rglob("*.png"))):
        whole = path.read_bytes()
        (tmp_path / f"{i}.png").write_bytes({2: b"", 5: whole[: len(whole) // 2]}.get(i, whole))
    table = tables.Folder(tmp_path)
    found = list(data.training_batches(table, pretraining.transform(32, 3), steps(batch=3, per_epoch=3), 2, False))
    names = {name.rpartition("/")[2] for batch in found for name, _ in batch.failures}
    assert names == {"2.png", "5.png"} and all(b.images.isfinite().all() for b in found)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(TrainingError, match=r"^9 images in a row cannot be read: .*png: cannot identify [^\n]*$"):
            next(data.training_batches(table, pretraining.transform(32, 3), steps(), workers, False))


def test_too_few_images_for_a_step():
    with pytest.raises(TrainingError, match=r"9 images are too few for a step of 16 .* lower --batch_size"):
        data.Steps.count(9, 16)


def test_evaluation_sees_every_image_once(photos):
    table, seen = tables.Folder(photos, labelled=False), []
    for rank in range(5):
        share = Processes(rank, 5, CPU)
        for batch in data.evaluation_batches(table, lambda image: torch.tensor(image.size), 2, share, 0, False):
            seen.append(len(batch.images))
    assert sum(seen) == 12


def test_masks_depend_on_seed_step_and_place_alone():
    whole = pretraining.Masks(0, 8, 49, 0.6).of(7, 0, 8)
    assert (whole == 0).sum(1).tolist() == [19] * 8
    other = pretraining.Masks(0, 8, 49, 0.6)
    other.of(3, 0, 8)
    assert torch.equal(other.of(7, 4, 2), whole[4:6])
    assert not torch.equal(pretraining.Masks(1, 8, 49, 0.6).of(7, 0, 8), whole)
    assert not torch.equal(pretraining.Masks(0, 8, 49, 0.6).of(8, 0, 8), whole)


@pytest.fixture
def hub(photos, tmp_path, monkeypatch) -> SimpleNamespace:
    """A Hugging Face dataset on the disk, its third image damaged."""
    datasets = pytest.importorskip("datasets")
    files = sorted((photos / "train").rglob("*.png"))
    rows = [{"bytes": b"damaged" if i == 2 else f.read_bytes(), "path": f.name} for i, f in enumerate(files)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"]))
    table = datasets.Dataset.from_dict({"image": rows, "label": [i // 3 for i in range(9)]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    for i in range(4):
        table.shard(4, i).to_parquet(tmp_path / f"parquet/train-{i}.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # datasets sleeps 10 s behind each stream, since Arrow's threads may outlive a process that ends at once
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)
    places = {name: PretrainConfig(data_path=tmp_path / name, data_set="hf") for name in ("saved", "parquet")}
    return SimpleNamespace(**places)


@pytest.mark.parametrize("where", ["saved", "parquet"])
def test_hugging_face_tables(hub, where):
    config = getattr(hub, where)
    table = hub_tables.HubTable(config, "train", labelled=True)
    assert len(table) == 9 and table.classes == ["a", "b", "c"] and table.read(8)[1] == 2
    found = list(data.training_batches(table, pretraining.transform(32, 3), steps(batch=3, per_epoch=3), 0, False))
    assert {len(b.failures) for b in found} == {0, 1}
    with pytest.raises(TrainingError, match=r"no column 'picture' \(--image_key\); it has image, label"):
        hub_tables.HubTable(replace(config, image_key="picture"), "train")
    with pytest.raises(TrainingError, match="datasets cannot open it"):
        hub_tables.HubTable(replace(config, data_path=f"{config.data_path}-not"), "train")


@pytest.fixture
def shards(photos, tmp_path) -> str:
    """Three webdataset shards of three images, one of them damaged."""
    wds = pytest.importorskip("webdataset")
    files = sorted((photos / "train").rglob("*.png"))
    for s in range(3):
        with wds.TarWriter(str(tmp_path / f"shard-{s}.tar")) as tar:
            for i in range(3 * s, 3 * s + 3):
                image = b"damaged" if i == 4 else files[i].read_bytes()
                tar.write({"__key__": f"{i:03d}", "png": image, "cls": str(i // 3)})
    return str(tmp_path / "shard-{0..2}.tar")


def stream(source, s: data.Steps, workers: int, taken=None) -> list[data.Batch]:
    change = pretraining.transform(32, 3)
    return list(streams.stream_batches(source, change, s, 3, workers, False, dict(taken or {})))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["wds", "hf"])
def test_streams_go_on_where_they_were_stopped(kind, workers, hub, shards):
    source = streams.Shards(shards) if kind == "wds" else streams.HubStream(hub.parquet, "train")
    whole = stream(source, steps(accumulate=2, per_epoch=3, epochs=2), workers)
    assert len(whole) == 12
    for at in (1, 3, 5) if workers == 0 else (2, 4):
        epoch, step = divmod(at, 3)
        taken = {}
        for batch in whole[6 * epoch : 2 * at]:
            taken[batch.taken[0]] = batch.taken[1]
        rest = stream(source, steps(accumulate=2, per_epoch=3, epochs=2, start=(epoch, step)), workers, taken)
        assert len(rest) == 12 - 2 * at
        for a, b in zip(rest, whole[2 * at :], strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.taken == b.taken
    assert {name for b in whole for name, _ in b.failures} <= {"004", "1.png", "2.png", "0.png"}
    assert any(b.failures for b in whole)


def test_processes_share_a_stream(shards):
    source = streams.Shards(shards)
    halves = [stream(source, steps(r, 3, batch=1, per_epoch=2, epochs=1), 0) for r in range(3)]
    images = [tuple(b.labels.tolist()) for half in halves for b in half]
    assert sorted(images) == [(0,), (0,), (1,), (1,), (2,), (2,)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "not a tar file", "gone"])
def test_a_damaged_shard_is_named(shards, tmp_path, damage, workers):
    source, shard = streams.Shards(shards), tmp_path / "shard-1.tar"
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:700] if damage == "cut" else b"<html>404</html>")
    with pytest.raises(TrainingError, match=r"^a shard cannot be read: [^\n]*shard-1\.tar'?$"):
        stream(source, steps(batch=9, per_epoch=1, epochs=1), workers)


def test_streams_that_cannot_be_used(tmp_path, hub):
    with pytest.raises(TrainingError, match="there are no such shards"):
        streams.Shards(str(tmp_path / "*.tar"))
    config = replace(hub.saved, data_path=tmp_path / "none", data_set="hf-stream")
    with pytest.raises(TrainingError, match="datasets cannot open it"):
        streams.HubStream(config, "train")
