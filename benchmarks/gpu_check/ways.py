"""The ways in which fused kernels can run a call: Triton's by the options that the tuner's table would name, the
library's CUDA kernels as they choose."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from types import ModuleType
from typing import Any

import torch

from kerneldna_ops import backends
from kerneldna_ops.triton_kernels import backward_choice, cost_model, forward_choice, operands
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.problem import Problem

from .machine import Machine

Args = tuple[Any, ...]  # of the op


# For Triton's interpreter, which takes milliseconds for each operation of a program.
DRY_TILES = (
    Config("P", 32, 16, 16),
    Config("S", 16, 16, 16),
    Config("M", 16, 16, 16),
    Config("X", 4, 16, 16),
)


@dataclass(frozen=True)
class Way:
    """function: "conv" or "conv_backward". options: Triton's. predicted: a forward's microseconds by cost_model.py."""

    function: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    predicted: float | None = None
    backend: str = "triton"

    def __call__(self, *args: Any) -> Any:
        """Of the arguments of torch.ops.kerneldna.conv or conv_backward."""
        if self.backend == "triton":
            return backends.load("triton").run(self.function, args, self.options)
        return getattr(backends.load(self.backend), self.function)(*args)

    @property
    def form(self) -> str:
        return self.name.split()[0]


@functools.cache
def model(machine: Machine) -> cost_model.Device:
    """What cost_model.py knows of the device. A dry run plays an H200, which takes every form."""
    if machine.dry:
        return cost_model.DEVICES["H200"]
    return cost_model.device_of(machine.name, machine.arch, machine.multiprocessors)


def problem_of(args: Args) -> Problem:
    input, weight, _, channel, _, spatial, *geometry = args
    return Problem.of(input, weight, channel, spatial, *geometry)


def forward(machine: Machine, args: Args, most: int | None = None) -> list[Way]:
    """The candidates, at most so many, and the best of each form that is not among them; predicted fastest first."""
    problem, device = problem_of(args), model(machine)
    if problem.depthwise:
        return [Way("conv", "depthwise")]
    configs = dict.fromkeys(() if machine.dry else forward_choice.candidates(problem, device)[:most])
    configs |= dict.fromkeys(best_of_each_form(machine, problem))
    return [
        Way("conv", config_name(config), asdict(config), microseconds)
        for config, microseconds in cost_model.rank(problem, configs, device)
    ]


def one_of_each_kind(machine: Machine, args: Args) -> list[Way]:
    """For checks: each form once, and form P also with its reduction split."""
    problem = problem_of(args)
    if problem.depthwise:
        return [Way("conv", "depthwise")]
    configs = best_of_each_form(machine, problem)
    (pointers,) = (config for config in configs if config.form == "P")
    configs = [replace(pointers, split_k=1), replace(pointers, split_k=2)] + [
        config for config in configs if config.form != "P"
    ]
    return [Way("conv", config_name(config), asdict(config)) for config in configs]


def best_of_each_form(machine: Machine, problem: Problem) -> list[Config]:
    best: dict[str, Config] = {}
    for config, _ in cost_model.rank(problem, _fitting(machine, problem), model(machine)):
        best.setdefault(config.form, config)
    return list(best.values())


def _fitting(machine: Machine, problem: Problem) -> list[Config]:
    tiles = DRY_TILES if machine.dry else forward_choice.tiles_for(machine.arch, problem.dtype.itemsize * 8)
    with_boxes = [t if t.form == "P" else replace(t, box=cost_model.box(problem, t)) for t in tiles]
    return [config for config in with_boxes if config.form == "P" or kernels_of(config).can_run(problem, config)[0]]


def backward(args: Args) -> list[Way]:
    """As the rules choose, and every choice that there is."""
    ways = [Way("conv_backward", "default")]
    if problem_of(args).depthwise:
        return ways
    filter, spatial = args[4], args[5]
    kinds = operands.per_sample(filter, None), operands.per_sample(None, spatial)
    found = (asdict(choice) for choice in backward_choice.choices(*kinds))
    return ways + [Way("conv_backward", choice_name(options), options) for options in found]


@functools.cache
def cuda_kernels(machine: Machine) -> tuple[str, bool, str]:
    """The backend with the library's CUDA kernels, whether it runs here, and why or why not.

    A dry run has their source, run on the CPU, where that is built.
    """
    name = "cuda_host" if machine.dry else "cuda"
    return name, *backends.load(name).runs_on(torch.empty(0, device=machine.device))


def by_cuda_kernels(machine: Machine, function: str) -> list[Way]:
    """One way, or none where the library has no such kernels."""
    name, runs, _ = cuda_kernels(machine)
    return [Way(function, name, backend=name)] if runs else []


def fused_backends(machine: Machine) -> list[str]:
    name, runs, _ = cuda_kernels(machine)
    return ["triton", name] if runs else ["triton"]


def own_kernels(found: list[Way]) -> Way:
    """The first choice in which nothing is left to aten."""
    return next(way for way in found if way.options.get("input") == way.options.get("weight") == "kernel")


def config_name(config: Config) -> str:
    """ "P 128x128x64 w8 s3", with " k2" for a split reduction; boxes as "4x8x4"."""
    name = f"{config.form} {config.block_m}x{config.block_n}x{config.block_k} w{config.num_warps} s{config.num_stages}"
    if config.box is not None:
        name += " box " + "x".join(map(str, config.box))
    return name + f" k{config.split_k}" * (config.split_k > 1)


def choice_name(options: dict[str, Any]) -> str:
    """ "kernel/aten/passes": who makes the gradient of the input and of the weight, and how those of f and s come."""
    return "/".join(value for value in options.values() if value is not None)


def gradients(way: Way, grad_output: torch.Tensor, args: Args, mask: Sequence[bool] | None = None) -> Any:
    """All six of the op, or those that the mask asks for."""
    mask = [tensor is not None for tensor in args[:6]] if mask is None else list(mask)
    return way(grad_output, *args, mask)


def kernels_of(config: Config) -> ModuleType:
    """The module with the form's `forward`."""
    return forward_choice.FORMS[config.form]
