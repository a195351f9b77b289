"""Other people's dynamic convolutions, for comparison only.

    PEERS[name](in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1)

makes one layer, without a bias: those of kerneldna_ops.nn, and two that it has not. A network of them is built like a
static one, and then

    share_warehouses(network.stage1, network.stage2)    # once: each of these modules gets one warehouse
    set_temperature(network, epoch / annealing_epochs)  # before each epoch

which do nothing to the peers that share nothing and have no temperature. Every layer pools its whole input (or output)
and attends to it sample by sample. Those with BatchNorm in their attention (ODConv, KernelWarehouse) need 2 samples at
least in training mode. `grouped` has the usual form of the library's layers."""

from collections.abc import Callable
from functools import partial

from torch.nn import Module

from kerneldna_ops import nn

from .cond_conv import CondConv2d
from .kernel_warehouse import KernelWarehouseConv2d, share_warehouses
from .squeeze_excite import SEConv2d
from .temperature import has_temperatures, set_temperature

PEERS: dict[str, Callable[..., Module]] = {
    "se": SEConv2d,
    "condconv": CondConv2d,
    "dynamic": partial(nn.DynamicConv2d, bias=False, temperature=1),
    "odconv": partial(nn.ODConv2d, kernel_num=1),
    "odconv4": nn.ODConv2d,
    "kernelwarehouse": KernelWarehouseConv2d,
    "kernelwarehouse-half": partial(KernelWarehouseConv2d, budget=0.5),
}

__all__ = ["PEERS", "has_temperatures", "set_temperature", "share_warehouses"]
