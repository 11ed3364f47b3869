"""With the same checkpoint, timm's and transformers' networks compute what ours do: logits and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import convnextv2_fast as cf
from convnextv2_fast.checkpoints import convert_state_dict, load_checkpoint

from . import states

CLASSES = 10
TOLERANCE = 1e-5  # of the largest reference element


def our_model(size: str) -> nn.Module:
    """One of the eight sizes, or `small`: few and narrow blocks."""
    if size == "small":
        return cf.ConvNeXtV2(depths=states.DEPTHS, dims=states.DIMS, num_classes=CLASSES)
    return getattr(cf, f"convnextv2_{size}")(num_classes=CLASSES)


def timm_peer(size: str) -> nn.Module:
    if size == "small":
        return states.timm_model(conv_mlp=False, num_classes=CLASSES)
    return states.peers.timm().create_model(f"convnextv2_{size}", pretrained=False, num_classes=CLASSES)


def transformers_peer(size: str) -> nn.Module:
    with torch.device("meta"):
        ours = our_model(size)
    return states.transformers_model(depths=ours.depths, hidden_sizes=ours.dims, num_labels=CLASSES)


PEERS: dict[str, tuple[Callable[[str], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "timm": (timm_peer, lambda model, x: model(x)),
    "transformers": (transformers_peer, lambda model, x: model(x).logits),
}


def error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def gradients(model: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (logits * weights).sum().backward()
    return {n: p.grad for n, p in model.named_parameters()}


def pair(library: str, size: str) -> tuple[nn.Module, nn.Module]:
    """Theirs with random parameters, and ours with the same."""
    theirs = states.randomise(PEERS[library][0](size))
    ours = our_model(size)
    report = load_checkpoint(ours, theirs.state_dict())
    assert report.format == library and report.loaded == len(list(ours.parameters()))
    return theirs, ours


@pytest.mark.parametrize("size", ["atto", "nano", "tiny"])
@pytest.mark.parametrize("library", PEERS)
def test_logits(library, size):
    theirs, ours = pair(library, size)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert error(ours(x), PEERS[library][1](theirs, x)) <= TOLERANCE


# With timm's 1x1 convolutions on an image that no stride divides, and with its linears.
@pytest.mark.parametrize(("size", "shape"), [("atto", (193, 257)), ("small", (64, 96))])
@pytest.mark.parametrize("library", PEERS)
def test_logits_and_all_gradients(library, size, shape):
    theirs, ours = pair(library, size)
    x = torch.randn(1, 3, *shape)
    logits, want = ours(x), PEERS[library][1](theirs, x)
    assert error(logits, want) <= TOLERANCE
    options = {"conv_mlp": False} if (library, size) == ("timm", "small") else {}
    got = convert_state_dict(gradients(ours, logits), "upstream", library, **options)
    for name, gradient in gradients(theirs, want).items():
        assert error(got.pop(name), gradient) <= TOLERANCE, name
    assert not got


@pytest.mark.parametrize("library", PEERS)
def test_our_weights_in_their_model(library):
    make, run = PEERS[library]
    ours = states.randomise(our_model("atto"))
    theirs = make("atto")
    theirs.load_state_dict(convert_state_dict(ours.state_dict(), target=library), strict=True)
    x = torch.randn(1, 3, 193, 257)
    with torch.no_grad():
        assert error(run(theirs, x), ours(x)) <= TOLERANCE
