"""A cell of the matrix: one call of a kernel's host function, for one architecture, and its operands."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.operands import Scale, reduction_scale, sample_scale
from kerneldna_ops.triton_kernels.problem import Problem

_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Cell:
    """flags: g (channel attention per sample), s (spatial attention per sample), f (filter attention), b (bias),
    d (sums for the attention gradients)."""

    form: str  # a name in forms.FORMS
    problem: Problem
    flags: str
    arch: int  # 90 for sm_90
    config: Config | None = None

    @property
    def tile(self) -> Config:
        assert self.config is not None
        return self.config

    @property
    def pixels(self) -> Tensor:
        problem = self.problem
        return self.empty(problem.batch, problem.height, problem.width, problem.in_channels)

    @property
    def output(self) -> Tensor:
        problem = self.problem
        return self.empty(problem.batch, problem.out_height, problem.out_width, problem.out_channels)

    @property
    def weight(self) -> Tensor:
        return self.empty(self.problem.out_channels, self.problem.taps, self.problem.per_group[0])

    @property
    def bias(self) -> Tensor | None:
        return self.empty(self.problem.out_channels) if "b" in self.flags else None

    def scale(self, flag: str, channels: int) -> Scale:
        return sample_scale(self.empty(self.problem.batch, channels) if flag in self.flags else None)

    def g(self, channels: int) -> Scale:
        if "s" not in self.flags:
            return self.scale("g", channels)
        return reduction_scale(None, self.empty(self.problem.batch, *self.problem.kernel_size), channels)

    @property
    def name(self) -> str:
        """Unlike that of any other cell."""
        parts = (self.form, size_of(self.problem), self.dtype, self.flags or "-", tile_of(self.config))
        return " ".join(part for part in (*parts, f"sm_{self.arch}") if part)

    @property
    def dtype(self) -> str:
        name = _DTYPES[self.problem.dtype]
        return "tf32" if name == "fp32" and not self.problem.exact else name

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.problem.dtype, device="meta")


def size_of(problem: Problem) -> str:
    """ "256@14 3x3", "100>36@13 3x3 s2x2"."""
    channels = str(problem.in_channels)
    if problem.out_channels != problem.in_channels:
        channels += f">{problem.out_channels}"
    size = f"{channels}@{problem.height} {problem.kernel_size[0]}x{problem.kernel_size[1]}"
    if problem.batch != 128:
        size = f"b{problem.batch} {size}"
    if problem.stride != (1, 1):
        size += f" s{problem.stride[0]}x{problem.stride[1]}"
    if problem.groups > 1 and not problem.plain_depthwise:
        size += f" groups={problem.groups}"
    return size


def tile_of(config: Config | None) -> str:
    """ "128x128x64 w8 s3", with " k4" for a split reduction, " [8, 4, 4]" for a box."""
    if config is None:
        return ""
    tile = f"{config.block_m}x{config.block_n}x{config.block_k} w{config.num_warps} s{config.num_stages}"
    box = "" if config.box is None else f" {list(config.box)}"
    return tile + f" k{config.split_k}" * (config.split_k > 1) + box
