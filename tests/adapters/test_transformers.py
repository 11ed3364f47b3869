"""transformers' models accelerated: equal values and gradients, and what its own tests ask of these models.

Not here: TorchScript, which cannot follow this library's ops, and what these models do not have (attentions, gradient
checkpointing, input embeddings): its tests skip those too."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters.judge import assert_equal_outputs, both, close

transformers = peers.transformers()
SIZES = dict(num_channels=3, hidden_sizes=[10, 20, 30, 40], depths=[2, 2, 3, 2], num_labels=3)
KINDS = {"v1": "ConvNext", "v2": "ConvNextV2"}


def config(kind, **options):
    if kind == "v1":
        options.setdefault("layer_scale_init_value", 0.3)
    return getattr(transformers, f"{KINDS[kind]}Config")(**SIZES, **options)


def build(kind, what, **options):
    return randomise(getattr(transformers, f"{KINDS[kind]}{what}")(config(kind, **options)), 0).eval()


pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_classifier(kind):
    plain, fast, report = both(build(kind, "ForImageClassification"))
    assert not report.not_replaced and len(report.replaced) == 9 + 4  # layers; embeddings and three stages
    assert_equal_outputs(plain, fast, torch.randn(2, 3, 64, 96), lambda y: y.logits)
    labels = torch.tensor([0, 2])
    x = torch.randn(2, 3, 64, 64)
    close(fast(x, labels=labels).loss, plain(x, labels=labels).loss, 2e-5, "loss")


def test_model_and_hidden_states(kind):
    """Its test_hidden_states_output and test_model_outputs_equivalence."""
    plain, fast, _ = both(build(kind, "Model"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        got, want = fast(x, output_hidden_states=True), plain(x, output_hidden_states=True)
        as_tuple = fast(x, output_hidden_states=True, return_dict=False)
    assert got.last_hidden_state.shape == (2, 40, 2, 2) and len(got.hidden_states) == 5
    assert got.hidden_states[0].shape == (2, 10, 16, 16)
    for a, b in zip(got.hidden_states, want.hidden_states, strict=True):
        close(a, b, 2e-5, "hidden state")
    close(got.pooler_output, want.pooler_output, 2e-5, "pooled")
    assert torch.equal(as_tuple[0], got.last_hidden_state)


def test_hidden_states_after_a_first_call(kind):
    """Hooks that transformers put on the stages before stay where they are."""
    model = build(kind, "Model")
    x = torch.randn(1, 3, 64, 64)
    want = model(x, output_hidden_states=True).hidden_states
    cf.accelerate(model)
    got = model(x, output_hidden_states=True).hidden_states
    assert len(got) == len(want) == 5
    for a, b in zip(got, want, strict=True):
        close(a, b, 2e-5, "hidden state")


def test_retained_gradients_of_hidden_states(kind):
    _, fast, _ = both(build(kind, "Model"))
    out = fast(torch.randn(1, 3, 64, 64), output_hidden_states=True)
    hidden = out.hidden_states[0]
    hidden.retain_grad()
    out.last_hidden_state.flatten()[0].backward()
    assert hidden.grad is not None and hidden.grad.abs().max() > 0


@pytest.mark.parametrize("features", [["stage2", "stage3", "stage4"], None])
def test_backbone(kind, features):
    """Its create_and_check_backbone."""
    plain, fast, _ = both(build(kind, "Backbone", out_features=features))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        got, want = fast(x).feature_maps, plain(x).feature_maps
    assert len(got) == len(fast.channels) == (3 if features else 1)
    for a, b, channels in zip(got, want, fast.channels, strict=True):
        assert a.shape[1] == channels
        close(a, b, 2e-5, "map")


def test_save_and_load(kind, tmp_path):
    """Its test_save_load: the saved files are those of the model as it was."""
    plain, fast, _ = both(build(kind, "ForImageClassification"))
    fast.save_pretrained(tmp_path / "fast")
    plain.save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    loaded = type(plain).from_pretrained(tmp_path / "fast").eval()
    auto = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "fast").eval()
    cf.accelerate(auto)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, plain(x).logits)
        close(auto(x).logits, plain(x).logits, 2e-5, "logits")


def test_determinism_and_training(kind):
    """Its test_determinism and test_training: two calls agree, one step lowers the loss."""
    _, model, _ = both(build(kind, "ForImageClassification"))
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        assert torch.equal(model(x).logits, model(x).logits)
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)
    losses = []
    for _ in range(5):
        loss = model(x, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_drop_path_draws_what_transformers_draws(kind):
    plain, fast, _ = both(build(kind, "ForImageClassification", drop_path_rate=0.6).train())
    x = torch.randn(6, 3, 64, 64)
    results = []
    for model in (plain, fast):
        torch.manual_seed(3)
        results.append(model(x).logits)
    close(results[1], results[0], 2e-5, "logits")


@pytest.mark.parametrize("act, fused", [("gelu", True), ("gelu_new", False), ("relu", False)])
def test_activations(kind, act, fused):
    plain, fast, report = both(build(kind, "ForImageClassification", hidden_act=act))
    runs = {r.runs_as for r in report.replaced if r.cls.endswith("Layer")}
    assert runs == {"dwconv_layer_norm + mlp_grn" if fused else "dwconv_layer_norm"}
    assert_equal_outputs(plain, fast, torch.randn(1, 3, 64, 64), lambda y: y.logits, gradients=False)


def test_wrong_channels(kind):
    _, fast, _ = both(build(kind, "Model"))
    with pytest.raises(ValueError, match="channel"):
        fast(torch.randn(1, 4, 64, 64))


def test_inside_a_segmentation_model(kind):
    """UperNet with this backbone."""
    backbone = config(kind, out_features=["stage1", "stage2", "stage3", "stage4"])
    whole = transformers.UperNetConfig(backbone_config=backbone, num_labels=4, hidden_size=16, auxiliary_channels=8)
    plain = randomise(transformers.UperNetForSemanticSegmentation(whole), 0).eval()
    plain, fast, report = both(plain)
    assert all(r.name.startswith("backbone.") for r in report.replaced)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        close(fast(x).logits, plain(x).logits, 2e-5, "logits")


def test_half_precision_is_cast_as_a_whole(kind):
    plain = build(kind, "ForImageClassification")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = plain(x).logits
        fast = copy.deepcopy(plain).to(torch.bfloat16)
        cf.accelerate(fast)
        got = fast(x.bfloat16()).logits
    assert got.dtype == torch.bfloat16
    close(got, want, 0.05, "logits")
