"""How the authors name the parts of ResNet-18 and ResNet-50: on the left theirs, on the right ours."""

from __future__ import annotations

from .published import PublishedNames


def resnet18_names() -> PublishedNames:
    """Their layer3 and layer4 are one module each; the three children are numbered in the order of the computation."""
    stage = {
        "conv1": "0.conv1",
        "bn1": "0.bn1",
        "downsample": "0.downsample",
        "se.0.se": "0.conv2.adapter.se",
        "bns.0": "0.bn2",
        "se.1.se": "1.conv1.adapter.se",
        "bns.1": "1.bn1",
        "conv2": "1.conv2",
        "bn2": "1.bn2",
        "se.2.se": "2.conv1.adapter.se",
        "bns.2": "2.bn1",
        "conv3": "2.conv2",
        "bn3": "2.bn2",
    }
    children = ("0.conv2", "1.conv1", "2.conv1")
    stages = ("layer3", "layer4")
    return PublishedNames(
        modules={f"{layer}.{theirs}": f"{layer}.{ours}" for layer in stages for theirs, ours in stage.items()},
        filter_attention={f"{layer}.static_filter_attn": _within(layer, children) for layer in stages},
        spatial_attention={f"{layer}.static_spatial_attn": _within(layer, children) for layer in stages},
    )


def resnet50_names() -> PublishedNames:
    """Their layer3 and layer4 keep the first block, the blocks with a child and those with a parent apart."""
    modules: dict[str, str] = {}
    for layer in ("layer3", "layer4"):
        modules[f"{layer}.block0.layers"] = f"{layer}.0"
        modules[f"{layer}.block0.downsample.conv"] = f"{layer}.0.downsample.0"
        modules[f"{layer}.block0.downsample.bn"] = f"{layer}.0.downsample.1"
    for pair in range(3):
        modules |= _child_block(f"layer3.kids.{pair}", f"layer3.{2 * pair + 1}")
        modules[f"layer3.parents.{pair}.layers"] = f"layer3.{2 * pair + 2}"
    modules |= _child_block("layer4.blocks.0", "layer4.1")
    modules["layer4.last_block.layers"] = "layer4.2"
    children = {"layer3": _within("layer3", ("1.conv2", "3.conv2", "5.conv2")), "layer4": ("layer4.1.conv2",)}
    return PublishedNames(
        modules,
        filter_attention={
            "layer3.static_filter_attn": children["layer3"],
            "layer4.static_filter_attn2": children["layer4"],
        },
        spatial_attention={f"{layer}.static_spatial_attn": children[layer] for layer in children},
    )


def _child_block(theirs: str, ours: str) -> dict[str, str]:
    """Theirs is in halves, before and behind the 3x3 convolution that is not its own."""
    return {
        f"{theirs}.half1.conv1": f"{ours}.conv1",
        f"{theirs}.half1.bn1": f"{ours}.bn1",
        f"{theirs}.half1.se.se": f"{ours}.conv2.adapter.se",
        f"{theirs}.half2.bn2": f"{ours}.bn2",
        f"{theirs}.half2.conv3": f"{ours}.conv3",
        f"{theirs}.half2.bn3": f"{ours}.bn3",
    }


def _within(layer: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{layer}.{name}" for name in names)
