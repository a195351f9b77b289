"""KernelWarehouse: Li and Yao, KernelWarehouse: Rethinking the Design of Dynamic Convolution (ICML 2024, arXiv
2406.07879).

The mechanism of section 3, not all of the paper: a kernel is partitioned into cells of one tap each, layers share a
warehouse whose cells have the greatest common divisors of their channels, and a contrasting-driven attention, annealed
from a one-to-one assignment, mixes each cell out of the whole warehouse. Left out are cells of other sizes, first
layers that draw on the warehouse of the stage before, the low-rank attention of the largest warehouses, and linear
layers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .grouped import per_sample_conv2d
from .layer import PeerConv2d


class KernelWarehouseConv2d(PeerConv2d):
    """A convolution whose kernel is put together for each sample, tap by tap, from the cells of a warehouse.

    Its own warehouse at first; `share_warehouses` gives several layers a common one. The warehouse has
    budget times the parameters of the static layers (the paper's b).

    Each tap of the kernel is a sum over all cells, of which there are as many as taps in all layers together. As calls
    of the op (the attention as s, a cell as the weight) that would be one static convolution for each cell; so the
    kernels are mixed for each sample, and convolved in groups.
    """

    def __init__(self, *args, budget: float = 1.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not budget > 0:
            raise ValueError(f"KernelWarehouseConv2d: budget must be above 0, got {budget}")
        self.budget = budget
        share_warehouse([self])

    def cells(self, cell_shape: tuple[int, int]) -> int:
        """How many cells the kernel consists of."""
        return math.prod(self.kernel_shape) // math.prod(cell_shape)

    def draw_from(self, warehouse: nn.Parameter, assigned: Tensor) -> None:
        """From now on the kernel consists of cells of `warehouse`, [cells, out, in], at first those `assigned`."""
        self.warehouse = warehouse
        self.attention = ContrastingAttention(self.in_channels, assigned)

    def kernels(self, input: Tensor) -> Tensor:
        """[N, C_out, C_in/groups, kh, kw]"""
        _, out, in_ = self.warehouse.shape
        filters, channels, kh, kw = self.kernel_shape
        cells = self.attention(input) @ self.warehouse.flatten(1)
        cells = cells.view(-1, kh, kw, filters // out, channels // in_, out, in_)
        return cells.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, *self.kernel_shape)

    def forward(self, input: Tensor) -> Tensor:
        return per_sample_conv2d(input, self.kernels(input), **self.geometry)


class Squeeze(nn.Sequential):
    """[N, C, H, W] -> [N, features]: mean, dense layer, BatchNorm, ReLU. As in ODConv a sixteenth as wide as its input,
    16 features at least."""

    def __init__(self, channels: int) -> None:
        self.features = max(channels // 16, 16)
        super().__init__(nn.Linear(channels, self.features, bias=False), nn.BatchNorm1d(self.features), nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean((2, 3)))


class ContrastingAttention(nn.Module):
    """[N, C, H, W] -> [N, mixtures, cells]: t * assigned + (1 - t) * z / sum |z|, t from 1 to 0.

    z may be negative, unlike the shares of a softmax. It has one entry more than there are cells, for a cell of zeros,
    as in the authors' code.

    Args:
        assigned: [mixtures, cells], 1 where a mixture starts as that cell.
    """

    assigned: Tensor

    def __init__(self, channels: int, assigned: Tensor) -> None:
        super().__init__()
        self.temperature = 0.0  # until somebody anneals it
        mixtures, cells = assigned.shape
        self.squeeze = Squeeze(channels)
        self.head = nn.Linear(self.squeeze.features, mixtures * (cells + 1))
        self.register_buffer("assigned", assigned)

    def forward(self, input: Tensor) -> Tensor:
        mixtures, cells = self.assigned.shape
        z = self.head(self.squeeze(input)).view(-1, mixtures, cells + 1)
        contrasted = (z / (z.abs().sum(2, keepdim=True) + 1e-3))[..., :-1]
        return self.temperature * self.assigned + (1 - self.temperature) * contrasted


def share_warehouses(*stages: nn.Module) -> None:
    """Gives all KernelWarehouse layers in each of these modules one warehouse, drawn anew: before training, that is."""
    for stage in stages:
        layers = [module for module in stage.modules() if isinstance(module, KernelWarehouseConv2d)]
        if layers:
            share_warehouse(layers)


def share_warehouse(layers: Sequence[KernelWarehouseConv2d]) -> None:
    """One warehouse for these layers, with the budget of the first."""
    shape = (
        math.gcd(*(layer.kernel_shape[0] for layer in layers)),
        math.gcd(*(layer.kernel_shape[1] for layer in layers)),
    )
    needed = [layer.cells(shape) for layer in layers]
    mixtures = sum(needed)
    cells = max(1, round(layers[0].budget * mixtures))
    # Cell j starts in mixture owner[j]. Of a budget below 1 some mixtures start with none, as zeros; above 1 with the
    # first of several.
    owner = torch.arange(cells) * mixtures // cells
    assigned = torch.zeros(mixtures, cells)
    first = torch.cat([torch.tensor([True]), owner[1:] != owner[:-1]])
    assigned[owner[first], torch.arange(cells)[first]] = 1
    warehouse = nn.Parameter(torch.empty(cells, *shape))
    deviations = [math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size))) for layer in layers]
    with torch.no_grad():
        warehouse.normal_().mul_(torch.tensor(deviations).repeat_interleave(torch.tensor(needed))[owner, None, None])
    for layer, of_layer in zip(layers, assigned.split(needed), strict=True):
        layer.draw_from(warehouse, of_layer)
