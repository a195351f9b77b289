"""What .detection and .segmentation build from torchvision's classes. Importing this imports torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.segmentation.fcn import FCN, FCNHead

from .registry import create_model
from .weights import load_trunk

LAYERS = 5  # the stem and four stages

__all__ = ["FCN", "FPN", "MaskRCNN", "backbone", "fcn"]


def backbone(name: str, weights: str | PathLike[str] | None, **arguments: Any) -> Any:
    """`create_model` with weights for any number of classes: the classifier has no use here."""
    network: Any = create_model(name, **arguments)
    if weights is not None:
        load_trunk(network, weights)
    return network


class FPN(BackboneWithFPN):  # type: ignore[misc]
    """The maps of a network at H/4 to H/32 through a feature pyramid; see `detection.kerneldna_fpn`.

    With `frozen_norms` every BatchNorm of the network, those of the squeeze-excites included, stays as it is, in
    training too: its statistics, scale and shift.
    """

    def __init__(
        self,
        network: Any,
        trainable_layers: int,
        returned_layers: Sequence[int],
        extra_blocks: nn.Module | None,
        norm_layer: Callable[..., nn.Module] | None,
        frozen_norms: bool,
    ) -> None:
        trunk = getattr(network, "features", network)
        stages = {name.removeprefix("features."): channels for name, channels in network.feature_channels.items()}
        _freeze(trunk, list(stages), trainable_layers)
        if frozen_norms:
            for norm in _norms(trunk):
                norm.requires_grad_(False)
        chosen = [list(stages)[layer - 1] for layer in returned_layers]
        maps = {stage: str(level) for level, stage in enumerate(chosen)}
        super().__init__(trunk, maps, [stages[stage] for stage in chosen], 256, extra_blocks, norm_layer)
        self.frozen_norms = frozen_norms
        self.train()

    def train(self, mode: bool = True) -> FPN:
        super().train(mode)
        if self.frozen_norms:
            for norm in _norms(self.body):
                norm.eval()
        return self


def fcn(network: Any, num_classes: int, aux_loss: bool) -> FCN:
    """FCN on the maps of layer4 and, with an auxiliary loss, of layer3."""
    channels = network.feature_channels
    maps = {"layer4": "out", "layer3": "aux"} if aux_loss else {"layer4": "out"}
    aux_head = FCNHead(channels["layer3"], num_classes) if aux_loss else None
    return FCN(IntermediateLayerGetter(network, maps), FCNHead(channels["layer4"], num_classes), aux_head)


def _freeze(trunk: nn.Module, stages: Sequence[str], trainable_layers: int) -> None:
    """No training for all but the last layers; a stage with what leads from the one before to it is one."""
    layer = 0
    for name, module in trunk.named_children():
        if layer == 0 and name in ("layer1", "1"):
            layer = 1
        if layer < LAYERS - trainable_layers:
            module.requires_grad_(False)
        if name in stages:
            layer += 1


def _norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]
