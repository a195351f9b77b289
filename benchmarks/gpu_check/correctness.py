"""Every kernel against float64, before anything is timed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import truths
from cases import Call, numbers
from kerneldna_ops import use_backend
from kerneldna_ops.nn import SqueezeExcite
from tolerance import Truth, largest

from . import ways
from .checks import Checked, cases, checked
from .comparison import Comparisons, Results, poisoned
from .machine import PRECISIONS, Machine, precision

# [N, C, H, W] of squeeze-excite: what one program holds, and what takes two launches, samples sharing blocks or not.
GATES = [(3, 19, 7, 5), (5, 70, 20, 17), (33, 264, 23, 21), (1, 520, 9, 7), (70, 1032, 3, 3)]
DRY_GATES = [(2, 6, 3, 2)]


def run(machine: Machine, done: Callable[[str], None]) -> Comparisons:
    """Goes on after a wrong result, so that one run finds them all. `done` is told of each precision."""
    comparisons = Comparisons(machine)
    for name in machine.precisions:
        with precision(name), poisoned(machine.device):
            for case in cases(machine, name):
                _check_case(machine, comparisons, checked(case, name, machine.device), name)
            for shape in DRY_GATES if machine.dry else GATES:
                _check_gate(machine, comparisons, shape, name)
        done(f"{name}: {comparisons.count} results compared so far, {len(comparisons.wrong)} wrong")
    return comparisons


def _check_case(machine: Machine, comparisons: Comparisons, c: Checked, precision: str) -> None:
    args, where = tuple(c.call), f"{c.case.name} {precision}"

    def output(what: str, run: Callable[[], Tensor]) -> None:
        comparisons.check(f"{what}, {where}", lambda: [run()], [c.output], c.plain_output)

    def gradients(what: str, run: Callable[[], Results]) -> None:
        comparisons.check(f"{what}, {where}", run, c.gradients, c.plain_gradients)

    for way in [*ways.one_of_each_kind(machine, args), *ways.by_cuda_kernels(machine, "conv")]:
        output(way.name, partial(way, *args))
    for way in [*ways.backward(args), *ways.by_cuda_kernels(machine, "conv_backward")]:
        gradients(f"gradients {way.name}", partial(ways.gradients, way, c.grad, args))
    for backend in ways.fused_backends(machine):
        with use_backend(backend):
            output(f"the op by {backend}", partial(torch.ops.kerneldna.conv, *args))
            gradients(f"autograd of the op by {backend}", partial(truths.by_autograd, _op, c.call, c.grad))


def _op(call: Call) -> Tensor:
    return torch.ops.kerneldna.conv(*call)


def _check_gate(machine: Machine, comparisons: Comparisons, shape: tuple[int, int, int, int], precision: str) -> None:
    """Squeeze-excite in inference, and in training with its gradients, against the same module in float64."""
    dtype = PRECISIONS[precision][0]
    for training in (False, True):
        input = numbers("gate", *shape) + numbers("gate mean", shape[1], 1, 1)
        grad = numbers("gate gradient", *shape[:2])
        exact = _gate_results(_module(shape[1], torch.float64, input.device), input, grad, training)
        truth = [Truth(f"gate result {i}", value, largest(value), 1) for i, value in enumerate(exact)]
        low = torch.float16 if precision == "tf32" else dtype
        plain = _gate_results(_module(shape[1], low, input.device), input.to(low), grad.to(low), training)
        x, g = input.to(machine.device, dtype), grad.to(machine.device, dtype)

        def fused(backend: str, training: bool = training, x: Tensor = x, g: Tensor = g) -> list[Tensor]:
            with use_backend(backend):
                return _gate_results(_module(shape[1], x.dtype, x.device), x, g, training)

        mode = "training" if training else "inference"
        for backend in ["triton"] if training else ways.fused_backends(machine):
            what = f"squeeze-excite {mode} by {backend}, {list(shape)} {precision}"
            comparisons.check(what, partial(fused, backend), truth, [plain])


def _module(channels: int, dtype: torch.dtype, device: torch.device) -> SqueezeExcite:
    module = SqueezeExcite(channels)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 2.0 ** -round(torch.tensor(parameter[0].numel()).log2().item() / 2) if parameter.dim() > 1 else 0.5
            parameter.copy_(numbers(name, *parameter.shape, scale=scale, mean=1.0 if name == "bn.weight" else 0.0))
    return module.to(device, dtype)


def _gate_results(module: nn.Module, x: Tensor, grad: Tensor, training: bool) -> list[Tensor]:
    """The gate; in training also the gradients and the running statistics."""
    module.train(training)
    if not training:
        with torch.no_grad():
            return [module(x)]
    x = x.detach().requires_grad_()
    gate = module(x)
    gradients = torch.autograd.grad(gate, [x, *module.parameters()], grad)
    return [gate.detach(), *gradients, module.bn.running_mean, module.bn.running_var]
