"""Every kernel against float64, before anything is timed. The first wrong result ends the run."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import truths
from cases import numbers
from kerneldna_ops import use_backend
from kerneldna_ops.nn import SqueezeExcite
from kerneldna_ops.triton_kernels import operands
from kerneldna_ops.triton_kernels.config import Config
from tolerance import Truth, assert_within, largest

from . import ways
from .checks import Checked, cases, checked
from .machine import PRECISIONS, Machine, precision
from .ways import Way

# [N, C, H, W] of squeeze-excite: what one program holds, and what takes two launches.
GATES = [(3, 19, 7, 5), (5, 70, 20, 17), (33, 264, 23, 21)]
DRY_GATES = [(2, 6, 3, 2)]


class Wrong(Exception):
    """Names the kernel, the case and the precision, and says how far off it is."""


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """New tensors come full of NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            if not torch.empty(3, device=device).isnan().all():
                raise Wrong("new tensors are not poisoned, so nothing can be checked")
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def run(machine: Machine, done: Callable[[str], None]) -> int:
    """How many results were compared. Raises Wrong. `done` is told of each precision."""
    compared = 0
    for name in machine.precisions:
        with precision(name), poisoned(machine.device):
            for case in cases(machine, name):
                compared += _check_case(machine, checked(case, name, machine.device), name)
            for shape in DRY_GATES if machine.dry else GATES:
                compared += _check_gate(machine, shape, name)
        done(f"{name}: right so far, {compared} results compared")
    return compared


def _check_case(machine: Machine, c: Checked, precision: str) -> int:
    args, where = tuple(c.call), f"{c.case.name} {precision}"
    forward_ways = ways.one_of_each_kind(machine, args)
    backward_ways = ways.backward(args)

    def right(way: str, run: Callable[[], Sequence[Tensor | None]], truth: Sequence, plain: Sequence) -> None:
        compare(f"{way}, {where}", run, truth, plain)

    for way in forward_ways:
        right(way.name, lambda way=way: [way(*args)], [c.output], c.plain_output)
    for way in backward_ways:
        right(
            f"gradients {way.name}", lambda way=way: ways.gradients(way, c.grad, args), c.gradients, c.plain_gradients
        )
    with use_backend("triton"):
        right("the op", lambda: [torch.ops.kerneldna.conv(*args)], [c.output], c.plain_output)
        right(
            "autograd of the op",
            lambda: truths.by_autograd(lambda call: torch.ops.kerneldna.conv(*call), c.call, c.grad),
            c.gradients,
            c.plain_gradients,
        )
    epilogues = [way for way in forward_ways if way.options]
    for way in epilogues:
        _check_residual(way, c, where)
    return len(forward_ways) + len(backward_ways) + len(epilogues) + 2


def compare(
    what: str,
    run: Callable[[], Sequence[Tensor | None]],
    truth: Sequence[Truth | None],
    plain: Sequence[Sequence[Tensor | None]],
) -> None:
    """Right, and bit by bit the same a second time. Raises Wrong."""
    try:
        results, again = run(), run()
    except Exception as error:
        raise Wrong(f"{what}: does not run, {type(error).__name__}: {str(error).strip()[:500]}") from error
    for first, second in zip(results, again, strict=True):
        if first is not None and second is not None and not _same(first, second):
            raise Wrong(f"{what}: a second run gives another result")
    try:
        assert_within([None if result is None else result.cpu() for result in results], truth, plain)
    except AssertionError as error:
        raise Wrong(f"{what}: {str(error).splitlines()[0]}") from None


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.nan_to_num(nan=0.0), second.nan_to_num(nan=0.0))


def fused_epilogue(way: Way, args: ways.Args, residual: Tensor) -> Tensor:
    """relu(conv + residual) by the kernel's own epilogue, which inference uses."""
    input, weight, bias, channel, filter, spatial, *_ = args
    problem, config = ways.problem_of(args), Config(**way.options)
    g = operands.reduction_scale(channel, spatial, problem.in_channels)
    w = operands.taps_of(weight)
    if g is None:
        w = operands.folded(w, channel=channel, spatial=spatial)
    f = operands.sample_scale(filter)
    after = {"residual": operands.pixels(residual), "relu": True}
    form = ways.kernels_of(config)
    return operands.image(form.forward(operands.pixels(input), w, problem, config, g, f, bias, **after).y)


def _check_residual(way: Way, c: Checked, where: str) -> None:
    residual = numbers("residual", *c.case.output)
    added = residual.to(c.call.input)

    def after(y: Tensor) -> Tensor:
        return (y + residual.to(y.dtype)).relu()

    truth = c.output._replace(value=after(c.output.value))
    plain = [(after(y),) for (y,) in c.plain_output]
    compare(f"{way.name} with residual, {where}", lambda: [fused_epilogue(way, tuple(c.call), added)], [truth], plain)


def _check_gate(machine: Machine, shape: tuple[int, int, int, int], precision: str) -> int:
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

        def fused(training: bool = training, x: Tensor = x, g: Tensor = g) -> list[Tensor]:
            with use_backend("triton"):
                return _gate_results(_module(shape[1], x.dtype, x.device), x, g, training)

        mode = "training" if training else "inference"
        compare(f"squeeze-excite {mode}, {list(shape)} {precision}", fused, truth, [plain])
    return 2


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
