"""What timm's scripts and its feature extraction ask of a network, added to ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..convnext import ConvNeXt
from ..mobilenet_v2 import MobileNetV2
from ..network import Network
from ..resnet import ResNet


class TimmNetwork(Network):
    """A network with timm's methods; a subclass is one of ours as well, whose `forward` it keeps, and names its parts.

    Attributes:
        num_classes: 0 if there is no classifier.
        in_chans, drop_rate, global_pool: the arguments of timm.create_model.
        num_features, head_hidden_size: channels of the map that is pooled.
        feature_info: module, channels and reduction of the maps at H/2 (not ConvNeXt), H/4, H/8, H/16 and H/32.
    """

    first_conv: ClassVar[str]
    feature_cfg: ClassVar[Mapping[str, Any]]
    stem_pattern: ClassVar[str]
    block_patterns: ClassVar[tuple[str, str]]

    def set_up(self, num_classes: int, in_chans: int, drop_rate: float, global_pool: str) -> None:
        if not 0 <= drop_rate < 1:
            raise ValueError(f"{self.name}: drop_rate must be at least 0 and below 1, got {drop_rate}")
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.head_hidden_size = self.num_features
        self.feature_info = [*self.stem_info(), *self._stage_info()]
        self.global_pool = "avg"
        self._set_pool(global_pool, num_classes)
        if num_classes == 0:
            self.reset_classifier(0)

    def stem_info(self) -> list[dict[str, Any]]:
        """feature_info of the map at H/2."""
        raise NotImplementedError

    def pool(self, features: Tensor) -> Tensor:
        """[N, num_features, H/32, W/32] -> [N, num_features], what the classifier reads."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = F.dropout(self.pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.head)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, with weights at random; none for 0 classes."""
        self._set_pool(self.global_pool if global_pool is None else global_pool, num_classes)
        self.num_classes = num_classes
        weight = next(self.parameters())
        classifier: nn.Module = nn.Identity()
        if num_classes > 0:
            classifier = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        self.set_submodule(self.head, classifier.train(self.training))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of feature_info with these indices, and the last one unless `intermediates_only`."""
        if output_fmt != "NCHW":
            raise ValueError(f"{self.name}: output_fmt must be NCHW, got {output_fmt}")
        if norm:
            raise ValueError(f"{self.name}: norm must be False, the maps have no norm of their own")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        wanted = {self.feature_info[index]["module"] for index in taken}
        end = self.feature_info[last]["module"]
        maps = []
        for name, module in self._trunk():
            x = module(x)
            if name in wanted:
                maps.append(x)
            if name == end and (stop_early or intermediates_only):
                break
        return maps if intermediates_only else (x, maps)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """The groups of layers that timm's layer-wise learning rates go by."""
        return {"stem": self.stem_pattern, "blocks": self.block_patterns[0 if coarse else 1]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise ValueError(f"{self.name}: gradient checkpointing is not offered")

    def _trunk(self) -> Iterator[tuple[str, nn.Module]]:
        """What forward_features is made of, in turn, by name."""
        raise NotImplementedError

    def _stage_info(self) -> Iterator[dict[str, Any]]:
        for level, (module, channels) in enumerate(self.feature_channels.items()):
            yield {"num_chs": channels, "reduction": 4 * 2**level, "module": module}

    def _set_pool(self, global_pool: str, num_classes: int) -> None:
        if global_pool not in ("avg", ""):
            raise ValueError(f"{self.name}: global_pool must be 'avg' or '', got {global_pool!r}")
        if global_pool == "" and num_classes > 0:
            raise ValueError(f"{self.name}: global_pool='' needs num_classes=0, got {num_classes}")
        self.global_pool = global_pool


class TimmResNet(TimmNetwork, ResNet):
    first_conv = "conv1"
    feature_cfg: ClassVar[Mapping[str, Any]] = {}
    stem_pattern = r"^conv1|^bn1"
    block_patterns = (r"^layer(\d+)", r"^layer(\d+)\.(\d+)")

    def stem_info(self) -> list[dict[str, Any]]:
        return [{"num_chs": self.conv1.out_channels, "reduction": 2, "module": "relu"}]

    def pool(self, features: Tensor) -> Tensor:
        return self.avgpool(features).flatten(1)  # type: ignore[no-any-return]

    def _trunk(self) -> Iterator[tuple[str, nn.Module]]:
        return ((name, module) for name, module in self.named_children() if name not in ("avgpool", "fc"))


class _FeaturesNetwork(TimmNetwork):
    """One whose trunk is the sequence `features`."""

    features: nn.Sequential

    stem_pattern = r"^features\.0"
    block_patterns = (r"^features\.(\d+)", r"^features\.(\d+)")

    def _trunk(self) -> Iterator[tuple[str, nn.Module]]:
        return ((f"features.{name}", module) for name, module in self.features.named_children())


class TimmMobileNetV2(_FeaturesNetwork, MobileNetV2):
    first_conv = "features.0.0"
    feature_cfg: ClassVar[Mapping[str, Any]] = {"flatten_sequential": True}

    def stem_info(self) -> list[dict[str, Any]]:
        channels = self.features[1].conv[-1].num_features  # type: ignore[index, union-attr]
        return [{"num_chs": channels, "reduction": 2, "module": "features.1"}]

    def pool(self, features: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(features, 1).flatten(1)


class TimmConvNeXt(_FeaturesNetwork, ConvNeXt):
    first_conv = "features.0.0"
    feature_cfg: ClassVar[Mapping[str, Any]] = {"flatten_sequential": True, "out_indices": (0, 1, 2, 3)}

    def stem_info(self) -> list[dict[str, Any]]:
        return []

    def pool(self, features: Tensor) -> Tensor:
        norm, flatten, _ = self.classifier
        return flatten(norm(self.avgpool(features)))  # type: ignore[no-any-return]
