"""How torch.fx sees the layers: as leaves, whichever tracer it is.

fx.Tracer takes only the modules of torch.nn for leaves and goes through the code of all others, and so do tracers built
on it, torchvision's for create_feature_extractor among them. That of the layers here depends on sizes and dtypes.
"""

from typing import Any

from torch import nn
from torch.fx import Proxy


def is_traced(*args: Any) -> bool:
    """Whether one of a forward's arguments is a Proxy; the others may be parameters and buffers."""
    return any(isinstance(arg, Proxy) for arg in args)


def leaf(layer: nn.Module, *args: Any) -> Any:
    """The call of a layer in the graph that a tracer makes; for a layer's forward to return where one of its
    arguments is a Proxy.

    Raises:
        TypeError: the layer is what is traced, by itself.
    """
    tracer: Any = next(arg.tracer for arg in args if isinstance(arg, Proxy))
    if layer is tracer.root:
        kind = type(layer).__name__
        raise TypeError(f"{kind}: torch.fx takes it as part of a network, not by itself: wrap it in nn.Sequential")
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), args, {})
