"""A network with shared kernels as one of torch's own modules, for export."""

from __future__ import annotations

import copy

from torch import nn

from ..nn import Adapter, ChildConv2d, SqueezeExcite
from ..nn._bare import is_bare
from .norm_folding import fold_norms
from .plain import plain
from .replace import replace
from .survey import wrapper_of


def materialize(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, that computes the same with its children, and the norms behind its
    convolutions, in modules of torch.nn.

    A child becomes an nn.Conv2d where its attention is the same for all samples. Where it is not, as after training, it
    becomes a `ModulatedConv2d`: squeeze-and-excitation, multiplication and nn.Conv2d, with all that is static in the
    weight. BatchNorm or SyncBatchNorm behind a convolution is folded into it where torch.fx can follow the network;
    elsewhere it stays. So do other modules: CondConv2d, DynamicConv2d, ODConv2d, AdaptiveConv2DMod and ModulatedConv2d
    of kerneldna_ops.nn, SqueezeExcite outside of a child, and what calls kerneldna_ops.functional itself; exporters
    make plain operators of such calls. Each child gets a weight of its own, so nothing is shared any more, and the copy
    has other names and parameters in its state_dict.

    torch.fx runs the network's code with something that is no tensor: where a forward asks isinstance(x, Tensor) it may
    follow another way than tensors go. Compare the outputs of such a network once.

    The exporters, torch.onnx.export, torch.export, torch.jit.trace and AOTInductor, take the network with its children
    too. This is for what works on the modules of torch.nn themselves, and its graph is smaller: norms are folded.

    Raises:
        TypeError: the model is no nn.Module.
        ValueError: it is in training mode, where a squeeze-and-excitation depends on the batch; it is compiled,
            scripted or wrapped; or a child has a hook, or parts of another kind than its own.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"materialize: model must be a torch.nn.Module, got {type(model).__name__}")
    if (wrapper := wrapper_of(model)) is not None:
        raise ValueError(f"materialize: model must be a network as it was built, got one that is {wrapper}")
    for name, module in model.named_modules():
        if module.training:
            which = f"layer {name!r} is" if name else "it is"
            raise ValueError(
                f"materialize: model must be in eval mode, call model.eval() first: {which} in training mode"
            )
        if isinstance(module, ChildConv2d):
            _check(name, module)
    if isinstance(model, ChildConv2d):
        return plain(model).eval()
    result = copy.deepcopy(model)
    made: dict[ChildConv2d, nn.Module] = {}
    for name, module in list(result.named_modules(remove_duplicate=False)):
        if isinstance(module, ChildConv2d):
            replace(result, name, made.setdefault(module, plain(module)))
    fold_norms(result)
    return result.eval()


def _check(name: str, child: ChildConv2d) -> None:
    kinds = (ChildConv2d, Adapter, SqueezeExcite, nn.Linear)
    copied = set(child.adapter.se.bn.modules())  # as it is, whatever it is, where it cannot be folded
    for part, module in child.named_modules(prefix=name):
        if module not in copied and not is_bare(module, *kinds):
            raise ValueError(
                f"materialize: layer {part!r}, a {type(module).__name__}, has hooks or is not the kind that ChildConv2d"
                " makes: plain layers would not do the same"
            )
