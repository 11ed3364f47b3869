"""CUDA graphs themselves, which the other tests of this folder replace by a tape."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import graphs
from tests.ecosystem.subjects import SMALL, build

from .test_training import RATES, Trial, batches, classify, dense, dense_batch, same

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def images(n, size=64):
    return torch.randn(n, 3, size, size, device="cuda")


@pytest.mark.parametrize("name", ["ours", "timm"])
@torch.no_grad()
def test_inference(name):
    """Several shapes whose graphs share memory, in any order; new weights; other memory."""
    model = build(name).cuda()
    fast = graphs.inference(model)
    for _ in range(3):
        for n in (1, 2, 5):
            fast(images(n))
    for n in (5, 1, 2, 1, 5, 2, 2):
        x = images(n)
        assert fast.why_not(x) is None
        assert torch.equal(fast(x), model(x))
    for p in model.parameters():
        p.mul_(1.1)
    assert torch.equal(fast(x), model(x))
    model.double()
    for _ in range(4):
        assert torch.equal(fast(x.double()), model(x.double()))
    assert fast.why_not(x.double()) is None


@pytest.mark.parametrize("name", ["ours", "timm", "transformers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_frozen(name, dtype):
    """A private copy, replayed: writes into the model's weights are not seen until it is frozen again."""
    model = build(name).to("cuda", dtype)
    inputs = [images(n).to(dtype) for n in (1, 2, 5)]
    want = [model(x) for x in inputs]
    frozen = getattr(model, "model", model)
    cf.freeze(frozen)
    for _ in range(4):
        for x, w in zip(inputs, want, strict=True):
            assert torch.equal(model(x), w)
    for p in model.parameters():
        p.mul_(1.1)
    if name != "transformers":  # its head is not frozen
        assert torch.equal(model(inputs[0]), want[0])
    twin = cf.unfreeze(copy.deepcopy(frozen))
    assert torch.equal(_first(cf.freeze(frozen)(inputs[1])), _first(twin(inputs[1])))
    with pytest.raises(cf.UnsupportedInputError, match="it runs on cuda:0"):
        model(inputs[0].cpu())


def _first(result):
    return result if isinstance(result, torch.Tensor) else result.logits


@torch.no_grad()
def test_inference_under_autocast_sees_new_weights():
    model = build("ours").cuda()
    fast, x = graphs.inference(model), images(2)
    with torch.autocast("cuda", torch.bfloat16):
        model(x)  # autocast now has casts of the weights
        for _ in range(3):
            fast(x)
        for p in model.parameters():
            p.mul_(1.1)
        got = fast(x)
    with torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(got, model(x))


@torch.no_grad()
def test_random_numbers_are_those_of_eager_calls():
    model = nn.Dropout(0.5)
    fast, x = graphs.inference(model), torch.ones(1000, device="cuda")
    found = []
    for f in (fast, model):
        torch.manual_seed(3)
        found.append([f(x) for _ in range(6)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_streams_take_turns():
    model = build("ours").cuda()
    fast, data = graphs.inference(model), [images(4) for _ in range(8)]
    want = [model(x) for x in data]
    for _ in range(3):
        fast(data[0])
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    got = []
    for i, x in enumerate(data):
        with torch.cuda.stream(streams[i % 4]):
            got.append(fast(x))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adamw", {}),
        ("sgd", {"clip_grad": 0.5}),
        ("adamw", {"accumulate": 2, "clip_grad": 0.5, "autocast": torch.bfloat16, "average": True}),
        ("adam", {"scaled": True, "autocast": torch.float16}),
        ("sgd", {"scaled": True, "autocast": torch.float16, "clip_grad": 0.5}),
    ],
    ids=["adamw", "sgd", "everything", "float16-adam", "float16-sgd"],
)
def test_training(optimizer, options):
    def train(on):
        data = batches(parts=options.get("accumulate", 1))
        return Trial(on, dense().cuda(), optimizer, **options).train(data)

    graphed = train(True)
    assert not graphed.said and graphed.step.why_not_update() is None
    same(graphed, train(False))


@pytest.mark.parametrize("optimizer", [torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop])
def test_other_optimizers(optimizer):
    found = []
    for on in (False, True):
        trial = Trial(on, dense().cuda())
        trial.optimizer = optimizer(trial.model.parameters())
        trial.step = graphs.TrainingStep(trial.model, classify, trial.optimizer, graphs=on, say=trial.said.append)
        found.append(torch.stack(trial.train(batches()).losses))
        assert not trial.said and (not on or trial.step.why_not_update() is None)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_fcmae(scope):
    def loss(model, x, mask, kept):
        return model(x, mask=mask, kept=kept, full_pred=False)[0]

    def train(on):
        torch.manual_seed(0)
        model = cf.fcmae.FCMAE(decoder_embed_dim=16, init="std02", grn_scope=scope, **SMALL)
        data = []
        for _ in range(8):
            x = torch.randn(2, 3, 64, 64)
            data.append([(x, model.gen_random_mask(x, 0.5), 2)])
        return Trial(on, model.cuda(), loss=loss, clip_grad=1.0).train(data)

    graphed = train(True)
    assert graphed.step.why_not_update() is None
    same(graphed, train(False))


def test_other_shapes_between_replays():
    def train(on):
        torch.manual_seed(1)
        data = [[dense_batch(4 - i % 3)] for i in range(16)]
        return Trial(on, dense().cuda()).train(data, RATES * 2)

    same(train(True), train(False))


def test_a_failed_capture_leaves_steps_that_run():
    trial = Trial(True, dense().cuda(), loss=lambda m, x, y: classify(m, x, y) * (1 if x.sum().item() else 2))
    with pytest.raises(graphs.CaptureError, match="cannot be captured"):
        trial.train(batches())
    current = torch.cuda.current_stream()
    assert current == torch.cuda.default_stream()
    assert torch.isfinite(dense().cuda()(images(1))).all()


def test_distributed(tmp_path):
    """NCCL's sums within the graph, and parts without them, of one process."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda", 0))
    try:

        def train(on):
            data = batches(16, parts=2)
            with graphs.side_stream("cuda"):
                model = nn.parallel.DistributedDataParallel(dense().cuda(), device_ids=[0])
            return Trial(on, model, accumulate=2).train(data, RATES * 2)

        graphed = train(True)
        assert not graphed.said and graphed.step.why_not_update() is None
        same(graphed, train(False))
    finally:
        dist.destroy_process_group()
