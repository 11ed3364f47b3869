"""What optimizer factories ask a model: which parameters take no weight decay, and which layer each belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

_BARE = (".bias", ".gamma", ".beta")


class ParameterGroups(nn.Module):
    """timm's protocol, as `timm.optim.create_optimizer_v2(model, weight_decay=, layer_decay=)` reads it.

    The groups are those of timm's ConvNeXt V2, and the layers those of upstream's `optim_factory`, counted block by
    block ("single"). Give a factory the model itself, not what torch.compile, DataParallel or DistributedDataParallel
    return: those put a name of their own before the parameters', and a factory then finds none of them.
    """

    _BODY = ""  # before the names of stem and stages in the model's own: "encoder." in FCMAE

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay though they have more than one dimension: GRN's gamma and
        beta, biases of shape (1, C), and FCMAE's mask token. timm exempts what has one dimension by itself."""
        return {
            name
            for name, p in self.named_parameters()
            if p.ndim > 1 and (name.endswith(_BARE) or name.rpartition(".")[2] == "mask_token")
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers, from which layer-wise learning rate decay takes its factors.

        Args:
            coarse: a layer is a stage with its downsampling. False: a block is, the first of a stage with the
                downsampling before it.
        Returns:
            Regular expressions by part. The stem is the first layer; what they do not match (final norm, head, FCMAE's
            decoder) is the last.
        """
        body = "^" + self._BODY.replace(".", r"\.")
        blocks: Any = [
            (rf"{body}downsample_layers\.(\d+)\.", (0,)),
            (rf"{body}stages\.(\d+)\.(\d+)\.", None),
        ]
        if coarse:
            blocks = rf"{body}(?:downsample_layers|stages)\.(\d+)\."
        return {"stem": rf"{body}downsample_layers\.0\.", "blocks": blocks}
