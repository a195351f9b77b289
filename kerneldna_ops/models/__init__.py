"""The published networks: ResNet, MobileNetV2 and ConvNeXt whose layers share kernels (KernelDNA, arXiv 2503.23379).

`create_model(name)` builds them, and the static networks of timm and torchvision; `list_models()` says which.
Models for dense prediction are in `.detection` and `.segmentation`; importing `.timm` registers the networks in timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..measure.networks import count_macs, count_parameters
from .convnext import kerneldna_convnext_tiny
from .mobilenet_v2 import kerneldna_mobilenet_v2, kerneldna_mobilenet_v2_050
from .network import to_published
from .registry import create_model, list_models
from .resnet import kerneldna_resnet18, kerneldna_resnet50
from .weights import load_weights

if TYPE_CHECKING:
    from . import detection as detection
    from . import segmentation as segmentation

__all__ = [
    "count_macs",
    "count_parameters",
    "create_model",
    "detection",
    "kerneldna_convnext_tiny",
    "kerneldna_mobilenet_v2",
    "kerneldna_mobilenet_v2_050",
    "kerneldna_resnet18",
    "kerneldna_resnet50",
    "list_models",
    "load_weights",
    "segmentation",
    "to_published",
]


def __getattr__(name: str) -> Any:
    if name in ("detection", "segmentation"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
