"""How torch.fx sees the layers: as leaves, whichever tracer it is.

fx.Tracer takes only the modules of torch.nn for leaves and goes through the code of all others, and so do tracers built
on it, torchvision's for create_feature_extractor among them. That of the layers here depends on sizes and dtypes.
"""

from typing import Any

from torch import nn
from torch.fx import Proxy


def leaf(layer: nn.Module, input: Proxy, *more: Any) -> Any:
    """The call of a layer in the graph that a tracer makes; for a layer's forward to return where its input is a Proxy.

    more: the forward's other arguments.

    Raises:
        TypeError: the layer is what is traced, by itself.
    """
    tracer: Any = input.tracer
    if layer is tracer.root:
        kind = type(layer).__name__
        raise TypeError(f"{kind}: torch.fx takes it as part of a network, not by itself: wrap it in nn.Sequential")
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (input, *more), {})
