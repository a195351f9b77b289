"""The networks of `kerneldna_ops.models` in timm: importing this registers them.

    import kerneldna_ops.models.timm
    model = timm.create_model("kerneldna_resnet18", num_classes=10)

timm's scripts know them when they are run so:

    python -m kerneldna_ops.models.timm train.py --model kerneldna_resnet18 --data-dir DIR

A network built here has the parameters and the names of the one that `kerneldna_ops.models.create_model` builds, so the
weights of either load into the other. Arguments are timm's (in_chans, drop_rate, global_pool "avg" or "", and for
ConvNeXt drop_path_rate; as everywhere in timm nothing is dropped unless asked for) and those of the network's own
builder, whose dropout is drop_rate and whose stochastic_depth_prob is drop_path_rate. There are no pretrained weights:
`weights`, or timm's checkpoint_path, takes a file, the former of a network with any classifier where there is none here
(num_classes=0, features_only=True).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..._extras import missing

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except (ImportError, RuntimeError, AttributeError) as error:
    # torchvision, which timm imports, fails with RuntimeError if it was built for another torch.
    raise missing("kerneldna_ops.models.timm: needs timm", "timm", error) from error

from torch import nn

from ..registry import create_model, list_models
from ..weights import load_trunk
from .interface import TimmConvNeXt, TimmMobileNetV2, TimmNetwork, TimmResNet

FAMILIES: dict[str, type[TimmNetwork]] = {
    "kerneldna_resnet": TimmResNet,
    "kerneldna_mobilenet": TimmMobileNetV2,
    "kerneldna_convnext": TimmConvNeXt,
}


def _family(name: str) -> type[TimmNetwork]:
    return next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))


def _create(
    name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    **arguments: Any,
) -> nn.Module:
    family = _family(name)
    if family is TimmConvNeXt:
        drop_path_rate = _rate(name, "drop_path_rate", drop_path_rate, "stochastic_depth_prob", arguments)
        arguments["stochastic_depth_prob"] = drop_path_rate
    elif drop_path_rate:
        raise ValueError(f"{name}: drop_path_rate must be 0, the network has no stochastic depth, got {drop_path_rate}")
    if family is TimmMobileNetV2:
        drop_rate = _rate(name, "drop_rate", drop_rate, "dropout", arguments)
    weights = arguments.pop("weights", None) if num_classes == 0 else None
    # A network without classifier, which is 0 in timm, loses it below.
    network: Any = create_model(name, num_classes=num_classes or 1, in_channels=in_chans, **arguments)
    if weights is not None:
        load_trunk(network, weights)
    network.__class__ = family  # the builder's network, with what timm asks of it added
    network.set_up(num_classes, in_chans, drop_rate, global_pool)
    return network  # type: ignore[no-any-return]


def _rate(name: str, timms: str, rate: float, own: str, arguments: dict[str, Any]) -> float:
    """A rate that timm and the builder call by different names."""
    if own in arguments and rate:
        raise ValueError(f"{name}: {own} is timm's {timms}, give one of them, got both")
    return arguments.pop(own, rate)  # type: ignore[no-any-return]


def _entry(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **arguments: Any) -> nn.Module:
        features = dict(_family(name).feature_cfg)
        if arguments.get("features_only"):
            arguments["num_classes"] = 0
        model: nn.Module = build_model_with_cfg(
            partial(_create, name), name, pretrained, feature_cfg=features, **arguments
        )
        return model

    build.__name__ = name
    return build


default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "interpolation": "bilinear",
            "first_conv": _family(name).first_conv,
            "classifier": _family(name).head,
        }
        for name in list_models()
    }
)
for _name in list_models():
    register_model(_entry(_name))
