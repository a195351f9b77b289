"""Other people's dynamic convolutions, for comparison only: layers with the arguments of nn.Conv2d, from their papers.

    PEERS[name](in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True)

makes one layer. A network of them is built like a static one, and then

    share_warehouses(network.stage1, network.stage2)    # once: each of these modules gets one warehouse
    set_temperature(network, epoch / annealing_epochs)  # before each epoch

which do nothing to the peers that share nothing and have no temperature. Every layer pools its whole input (or output)
and attends to it sample by sample. Those with BatchNorm in their attention (ODConv, KernelWarehouse) need 2 samples at
least in training mode."""

from collections.abc import Callable
from functools import partial

from torch import nn

from .annealing import set_temperature
from .cond_conv import CondConv2d
from .dynamic_conv import DynamicConv2d
from .kernel_warehouse import KernelWarehouseConv2d, share_warehouses
from .od_conv import ODConv2d
from .squeeze_excite import SEConv2d

PEERS: dict[str, Callable[..., nn.Module]] = {
    "se": SEConv2d,
    "condconv": CondConv2d,
    "dynamic": DynamicConv2d,
    "odconv": ODConv2d,
    "odconv4": partial(ODConv2d, kernels=4),
    "kernelwarehouse": KernelWarehouseConv2d,
    "kernelwarehouse-half": partial(KernelWarehouseConv2d, budget=0.5),
}

__all__ = ["PEERS", "set_temperature", "share_warehouses"]
