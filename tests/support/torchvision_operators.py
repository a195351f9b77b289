"""torchvision's operators in Python, for the tests that need them where torchvision cannot load its own."""

import sys

import pytest
import torch

torchvision = pytest.importorskip("torchvision")
from torchvision.ops import box_iou  # noqa: E402


def nms(boxes, scores, threshold):
    """The boxes by falling score, each only if it overlaps none that is kept already by more than `threshold`."""
    kept = []
    for candidate in scores.argsort(descending=True, stable=True).tolist():
        if not kept or box_iou(boxes[candidate : candidate + 1], boxes[kept]).max() <= threshold:
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.int64)


def provide(patch):
    """Put them in place, until `patch` (pytest's) is undone; torchvision's own stay where it has them.

    Without operators roi_align falls back to Python code of its own, which it would compile: minutes, for a few boxes.
    """
    if torchvision.extension._has_ops():
        return
    patch.setattr(torchvision.extension, "_has_ops", lambda: True)
    patch.setattr(torchvision.ops.boxes, "nms", nms)
    roi_align = sys.modules["torchvision.ops.roi_align"]
    patch.setattr(roi_align, "_roi_align", roi_align._roi_align.__wrapped__)
