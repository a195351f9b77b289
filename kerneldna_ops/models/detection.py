"""Detection on networks that share kernels: features through a pyramid, and Mask R-CNN, in torchvision's own classes.

Needs torchvision; Mask R-CNN needs its operators as well, which come with the torchvision of the same torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from torch import nn

from ..nn._checks import Norm
from ._checks import need_torchvision
from .registry import list_models
from .weights import load_weights


def kerneldna_fpn(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] = (1, 2, 3, 4),
    extra_blocks: nn.Module | None = None,
    norm_layer: Callable[..., nn.Module] | None = None,
    **arguments: Any,
) -> nn.Module:
    """A network's maps through a feature pyramid: torchvision's BackboneWithFPN.

    [N, in_channels, H, W] -> {"0": [N, 256, H/4, W/4], ..., "3": [N, 256, H/32, W/32], "pool": [N, 256, H/64, W/64]}.

    Args:
        name: one of `kerneldna_ops.models.list_models()`.
        weights: a file with weights of that network, ours or the authors', for any number of classes. With trained
            weights every BatchNorm stays as it is, those of the squeeze-excites included: batches of one image train.
        trainable_layers: how many of the stem and the four stages are trained, from the last; None: 3 with trained
            weights, else all 5.
        returned_layers: which of the four maps, rising, from 1, which is at H/4.
        extra_blocks, norm_layer: those of torchvision's FeaturePyramidNetwork.
        arguments: the network's own, in_channels for example.

    Raises:
        ModuleNotFoundError: torchvision is missing or does not load.
        ValueError: an argument is out of range, or the weights do not fit.
        OSError: the file of the weights cannot be read.
    """
    trained = weights is not None
    return _fpn(name, weights, trained, trainable_layers, returned_layers, extra_blocks, norm_layer, **arguments)


def _fpn(
    name: str,
    weights: str | PathLike[str] | None,
    trained: bool,
    trainable_layers: int | None,
    returned_layers: Sequence[int] = (1, 2, 3, 4),
    extra_blocks: nn.Module | None = None,
    norm_layer: Callable[..., nn.Module] | None = None,
    **arguments: Any,
) -> nn.Module:
    """`kerneldna_fpn`; with `trained` weights, from this file or one yet to be loaded, the norms stay as they are."""
    user = "kerneldna_fpn"
    if name not in list_models():
        raise ValueError(f"{user}: name must be one of {', '.join(list_models())}, got {name!r}")
    need_torchvision(user)
    from ._torchvision_parts import FPN, LAYERS, backbone

    if trainable_layers is None:
        trainable_layers = 3 if trained else LAYERS
    if not 0 <= trainable_layers <= LAYERS:
        raise ValueError(f"{user}: trainable_layers must be from 0 to {LAYERS}, got {trainable_layers}")
    if not returned_layers or list(returned_layers) != sorted({1, 2, 3, 4}.intersection(returned_layers)):
        raise ValueError(f"{user}: returned_layers must be some of 1, 2, 3 and 4, rising, got {returned_layers}")
    network = backbone(name, weights, **arguments)
    if len(network.feature_channels) != LAYERS - 1:
        raise ValueError(
            f"{user}: needs maps at H/4, H/8, H/16 and H/32, got {len(network.feature_channels)} of {name}"
        )
    return FPN(network, trainable_layers, returned_layers, extra_blocks, norm_layer, trained)


def kerneldna_maskrcnn_fpn(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 91,
    weights_backbone: str | PathLike[str] | None = None,
    trainable_backbone_layers: int | None = None,
    dynamic: bool = False,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
    **arguments: Any,
) -> nn.Module:
    """Mask R-CNN on `kerneldna_fpn`; images and targets as for torchvision.models.detection.maskrcnn_resnet50_fpn.

    Args:
        name: one of `kerneldna_ops.models.list_models()`.
        weights: a file with weights of the whole detector, which leaves `weights_backbone` without use. With either the
            BatchNorms of the network stay as they are, and three layers of five are trained.
        num_classes: classes, with the background.
        weights_backbone, trainable_backbone_layers: weights and trainable_layers of `kerneldna_fpn`.
        dynamic: the fully dynamic variant of the network.
        se_norm_layer: the norm inside the network's squeeze-excites. Untrained weights and one image a process need
            another than BatchNorm, nn.LayerNorm for example.
        arguments: those of torchvision.models.detection.MaskRCNN, min_size for example.

    Raises:
        ModuleNotFoundError: torchvision is missing, does not load, or has no operators for this torch.
        ValueError: an argument is out of range, or weights do not fit.
        OSError: a file of weights cannot be read.
    """
    need_torchvision("kerneldna_maskrcnn_fpn", operators=True)
    from ._torchvision_parts import MaskRCNN

    trained = weights is not None or weights_backbone is not None
    own = weights_backbone if weights is None else None
    features = _fpn(name, own, trained, trainable_backbone_layers, dynamic=dynamic, se_norm_layer=se_norm_layer)
    model: nn.Module = MaskRCNN(features, num_classes=num_classes, **arguments)
    if weights is not None:
        load_weights(model, weights)
    return model


def kerneldna_maskrcnn_resnet18_fpn(**arguments: Any) -> nn.Module:
    """`kerneldna_maskrcnn_fpn` on kerneldna_resnet18."""
    return kerneldna_maskrcnn_fpn("kerneldna_resnet18", **arguments)


def kerneldna_maskrcnn_resnet50_fpn(**arguments: Any) -> nn.Module:
    """`kerneldna_maskrcnn_fpn` on kerneldna_resnet50."""
    return kerneldna_maskrcnn_fpn("kerneldna_resnet50", **arguments)


def kerneldna_maskrcnn_mobilenet_v2_fpn(**arguments: Any) -> nn.Module:
    """`kerneldna_maskrcnn_fpn` on kerneldna_mobilenet_v2."""
    return kerneldna_maskrcnn_fpn("kerneldna_mobilenet_v2", **arguments)
