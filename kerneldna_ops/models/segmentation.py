"""Segmentation on ResNets that share kernels: FCN, in torchvision's own classes, which have to be there."""

from __future__ import annotations

from os import PathLike
from typing import Any

from torch import nn

from ..nn._checks import Norm
from ._checks import need_torchvision
from .weights import load_weights

# A network -> which of layer2, layer3 and layer4 are dilated in place of their stride.
DILATED = {"kerneldna_resnet18": None, "kerneldna_resnet50": (False, True, True)}


def kerneldna_fcn(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: str | PathLike[str] | None = None,
    dynamic: bool = False,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
) -> nn.Module:
    """FCN, as torchvision.models.segmentation.fcn_resnet50: on maps at H/8 with ResNet-50, whose last two stages are
    dilated, and at H/32 with ResNet-18, whose blocks have no dilated form.

    [N, 3, H, W] -> {"out": [N, num_classes, H, W]}, and "aux" of the same shape with `aux_loss`.

    Args:
        name: "kerneldna_resnet50" or "kerneldna_resnet18".
        weights: a file with weights of the whole model.
        num_classes: classes, with the background.
        aux_loss: whether there is a second classifier, on layer3.
        weights_backbone: a file with weights of the network, ours or the authors', for any number of classes.
        dynamic: the fully dynamic variant of the network.
        se_norm_layer: the norm inside the network's squeeze-excites.

    Raises:
        ModuleNotFoundError: torchvision is missing or does not load.
        ValueError: an argument is out of range, or weights do not fit.
        OSError: a file of weights cannot be read.
    """
    if name not in DILATED:
        raise ValueError(f"kerneldna_fcn: name must be one of {', '.join(DILATED)}, got {name!r}")
    need_torchvision("kerneldna_fcn")
    from ._torchvision_parts import backbone, fcn

    network: Any = backbone(
        name,
        weights_backbone,
        dynamic=dynamic,
        replace_stride_with_dilation=DILATED[name],
        se_norm_layer=se_norm_layer,
    )
    model: nn.Module = fcn(network, num_classes, aux_loss)
    if weights is not None:
        load_weights(model, weights)
    return model


def kerneldna_fcn_resnet18(**arguments: Any) -> nn.Module:
    """`kerneldna_fcn` on kerneldna_resnet18."""
    return kerneldna_fcn("kerneldna_resnet18", **arguments)


def kerneldna_fcn_resnet50(**arguments: Any) -> nn.Module:
    """`kerneldna_fcn` on kerneldna_resnet50."""
    return kerneldna_fcn("kerneldna_resnet50", **arguments)
