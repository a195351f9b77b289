"""The op as a part of PyTorch, on the device: opcheck, torch.compile, CUDA graphs, streams, a second device."""

from collections.abc import Callable

import torch
from torch import Tensor

from kerneldna_ops import use_backend

from . import ways
from .checks import cases, on_device
from .comparison import Wrong
from .machine import PRECISIONS, Machine
from .ways import Args

_conv = torch.ops.kerneldna.conv


def run(machine: Machine) -> dict[str, dict[str, str]]:
    """What each check said of each backend with fused kernels: "right", or why it was not done. Raises Wrong."""
    return {backend: _run(machine, backend) for backend in ways.fused_backends(machine)}


def _run(machine: Machine, backend: str) -> dict[str, str]:
    said = {}
    for check in (opcheck, compiled, graph, stream, second_device):
        with use_backend(backend):
            try:
                said[check.__name__] = check(machine)
            except Wrong as wrong:
                raise Wrong(f"{backend}, {wrong}") from wrong
            except Exception as error:
                said_so = f"{type(error).__name__}: {str(error).strip()[:500]}"
                raise Wrong(f"{backend}, {check.__name__}: {said_so}") from error
    return said


def _example(machine: Machine, device: torch.device | None = None) -> tuple[Args, Tensor]:
    low = "fp16" if machine.dry else "bf16"
    case, dtype = cases(machine, low)[0], PRECISIONS[low][0]
    call, grad = on_device(case, dtype, device or machine.device)
    return tuple(call), grad


def _same(what: str, results: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> str:
    for result, exact in zip(results, wanted, strict=True):
        if not torch.equal(result.to(exact.device), exact):
            raise Wrong(f"{what}: not the result of a plain call")
    return "right"


def _step(args: Args, grad: Tensor) -> tuple[Tensor, ...]:
    """The output and all gradients."""
    leaves = [arg.detach().requires_grad_() if isinstance(arg, Tensor) else arg for arg in args]
    output = _conv(*leaves)
    gradients = torch.autograd.grad(output, [leaf for leaf in leaves if isinstance(leaf, Tensor)], grad)
    return output.detach(), *gradients


def opcheck(machine: Machine) -> str:
    args, _ = _example(machine)
    torch.library.opcheck(_conv.default, tuple(a.requires_grad_() if isinstance(a, Tensor) else a for a in args))
    return "right"


def compiled(machine: Machine) -> str:
    args, grad = _example(machine)
    options = {"backend": "aot_eager"} if machine.dry else {}
    function = torch.compile(lambda *given: _conv(*given), fullgraph=True, **options)
    leaves = [arg.detach().requires_grad_() if isinstance(arg, Tensor) else arg for arg in args]
    output = function(*leaves)
    gradients = torch.autograd.grad(output, [leaf for leaf in leaves if isinstance(leaf, Tensor)], grad)
    return _same("torch.compile", (output.detach(), *gradients), _step(args, grad))


def _cuda_only(check: Callable[[Machine], str]) -> Callable[[Machine], str]:
    def checked(machine: Machine) -> str:
        return "not done: needs CUDA" if machine.dry else check(machine)

    checked.__name__ = check.__name__
    return checked


@_cuda_only
def graph(machine: Machine) -> str:
    """Replayed with other values in the same places."""
    args, grad = _example(machine)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _step(args, grad)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = _step(args, grad)
    with torch.no_grad():
        for tensor in (grad, *(arg for arg in args if isinstance(arg, Tensor))):
            tensor.mul_(-1.5)
    captured.replay()
    torch.cuda.synchronize()
    return _same("CUDA graph", results, _step(args, grad))


@_cuda_only
def stream(machine: Machine) -> str:
    """On a stream of its own, behind work on which its input depends."""
    args, grad = _example(machine)
    wanted = _step(args, grad)
    late = map_tensors_of(args, torch.empty_like)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for tensor, value in zip(late, args, strict=True):
            if isinstance(tensor, Tensor):
                tensor.copy_(value)
        results = _step(late, grad)
    side.synchronize()
    return _same("a stream that is not the default", results, wanted)


@_cuda_only
def second_device(machine: Machine) -> str:
    if torch.cuda.device_count() < 2:
        return "not done: one device only"
    first, second = (_example(machine, torch.device("cuda", i)) for i in (0, 1))
    return _same("the second device, the first being current", _step(*second), _step(*first))


def map_tensors_of(args: Args, function: Callable[[Tensor], Tensor]) -> Args:
    return tuple(function(arg) if isinstance(arg, Tensor) else arg for arg in args)
