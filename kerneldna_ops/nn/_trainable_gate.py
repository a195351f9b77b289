"""The gate of squeeze-and-excitation as one step of autograd, instead of the dozen that its layers are."""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import CannotRun, cannot_run, chosen_backend


class Statistics(NamedTuple):
    """Those of the BatchNorm between fc1 and ReLU.

    mean, var, batches: its running_mean and running_var [R] and num_batches_tracked [].
    from_batch: whether it is in training mode: the batch's statistics count, and the running ones follow them by the
    share `momentum`, None being 1 / batches.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor
    eps: float
    momentum: float | None
    from_batch: bool


Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Kernels(Protocol):
    """What computes: _gate_kernels.py, and on a GPU triton_kernels/squeeze_excite_training.py."""

    def forward(self, operands: Operands, statistics: Statistics) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gate, and what the gradient needs besides the operands. Running statistics are updated in place.

        Both functions raise CannotRun where they cannot run after all, and then have changed nothing.
        """

    def backward(
        self, grad: Tensor, operands: Operands, statistics: Statistics, gate: Tensor, kept: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The gradients of the six operands."""


class TrainableGate(torch.autograd.Function):
    """The gate [N, C] with gradients for all tensors.

    apply(kernels, statistics, input, fc1_weight, gamma, beta, fc2_weight, fc2_bias): input [N, C, H, W], fc1_weight
    [R, C], gamma and beta [R] of BatchNorm, fc2_weight [C, R], fc2_bias [C], all of one dtype. Running statistics are
    updated as by nn.BatchNorm1d. The gradient of a gradient is that of the same formula in plain PyTorch.
    """

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, statistics: Statistics, *operands: Any) -> Tensor:
        gate, kept = kernels.forward(operands, statistics)
        running = (None, None) if statistics.from_batch else statistics[:2]
        ctx.save_for_backward(*operands, *running, gate, *kept)
        ctx.kernels, ctx.statistics, ctx.chosen = kernels, statistics, chosen_backend()
        return gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        operands, running, gate, kept = saved[:6], saved[6:8], saved[8], saved[9:]
        differentiated_again = torch.is_grad_enabled()
        if not differentiated_again:
            try:
                d_input, *others = ctx.kernels.backward(grad, operands, ctx.statistics, gate, kept)
                if operands[0].is_leaf and ctx.needs_input_grad[2]:
                    d_input = d_input.contiguous()  # for whoever asked for it to write to; others are added to more
                return None, None, d_input, *others
            except CannotRun as error:
                if ctx.chosen is not None:
                    raise cannot_run(ctx.chosen, str(error)) from error
        with torch.enable_grad(), torch._C._DisableAutocast():
            # The operands may come from one another, as where a gate runs twice: views end what is differentiated here.
            operands = tuple(operand.view_as(operand) for operand in operands)
            plain = _in_plain_pytorch(operands, running, ctx.statistics)
            wanted = ctx.needs_input_grad[2:]
            needed = [operand for operand, is_needed in zip(operands, wanted, strict=True) if is_needed]
            found = iter(torch.autograd.grad(plain, needed, grad, create_graph=differentiated_again))
        return None, None, *(next(found) if is_needed else None for is_needed in wanted)


def _in_plain_pytorch(
    operands: Operands, running: tuple[Tensor | None, Tensor | None], statistics: Statistics
) -> Tensor:
    input, fc1_weight, gamma, beta, fc2_weight, fc2_bias = operands
    z = F.linear(input.mean((2, 3)), fc1_weight)
    z = F.batch_norm(z, *running, gamma, beta, statistics.from_batch, 0.0, statistics.eps)
    return F.linear(z.relu(), fc2_weight, fc2_bias).sigmoid()
