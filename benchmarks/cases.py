"""What is measured: shapes of published networks, batch, memory format, dtype, device, and forward or forward with
backward."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kerneldna_ops.call import Call

from .devices import CPU, torch_device

PLAIN_SHAPES = ("64@56", "128@28", "256@14", "512@7")
POINTWISE_SHAPES = ("64->256@56", "256->1024@14", "1024->256@14", "96->576@14", "576->96@14")
STRIDED_SHAPES = ("64@56s2", "128@28s2", "256@14s2")
DEPTHWISE_SHAPES = ("96@56dw", "576@14dw")
SHAPES = PLAIN_SHAPES + POINTWISE_SHAPES + STRIDED_SHAPES + DEPTHWISE_SHAPES
BATCHES = (1, 8, 32)
GPU_BATCHES = (*BATCHES, 128)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("forward", "training")
# "tf32" is float32 of which convolutions may use the leading 10 bits; "float32" may not.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

NAME = re.compile(
    r"(?P<inputs>\d+)((->|-)(?P<outputs>\d+))?@(?P<size>\d+)(s(?P<stride>\d))?((?P<depthwise>dw)|g(?P<groups>\d+))?"
)


@dataclass(frozen=True)
class Shape:
    """`64@56`: 3x3, 64 channels in and out, a 56x56 map. `64->256@56`: 1x1. `s2`: stride 2. `dw`: depthwise. `g8`:
    8 groups."""

    name: str
    in_channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int
    groups: int

    @staticmethod
    def parse(name: str) -> "Shape":
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"shape must be of the form 64@56, 64->256@56, 64@56s2 or 96@56dw, got {name!r}")
        inputs, size = int(match["inputs"]), int(match["size"])
        outputs = int(match["outputs"] or inputs)
        pointwise = match["outputs"] is not None
        name = name if "->" in name else name.replace("-", "->")
        groups = inputs if match["depthwise"] else int(match["groups"] or 1)
        return Shape(name, inputs, outputs, size, 1 if pointwise else 3, int(match["stride"] or 1), groups)

    @property
    def family(self) -> str:
        if self.groups > 1:
            return "depthwise" if self.groups == self.in_channels else "grouped"
        return f"{self.kernel}x{self.kernel}" + (f" stride {self.stride}" if self.stride > 1 else "")

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        return (self.size - 1) // self.stride + 1


@dataclass(frozen=True)
class Case:
    shape: Shape
    batch: int
    layout: str
    mode: str
    dtype: str = "float32"
    device: str = CPU

    @property
    def name(self) -> str:
        return f"{self.shape.name} b{self.batch} {self.layout} {self.mode}" + self._other_dtype

    @property
    def family(self) -> str:
        """What is summed up together. On a GPU the batch is half the story."""
        batch = "" if self.device == CPU else f" b{self.batch}"
        return self.shape.family + batch + self._other_dtype

    @property
    def _other_dtype(self) -> str:
        return "" if self.dtype == "float32" else f" {self.dtype}"


class Operands(NamedTuple):
    """A call of the op, and the gradient of its output."""

    call: Call
    grad_output: Tensor


DIFFERENTIABLE = ("input", "weight", "channel_attention", "filter_attention", "spatial_attention")


def make_operands(case: Case, static_modulation: bool = False) -> Operands:
    """Operands with the same values at every call. With static modulation f is [C_out] and s is [kh, kw], as the
    published networks have them; c stays per sample."""
    shape, dtype, device = case.shape, DTYPES[case.dtype], torch_device(case.device)
    generator = torch.Generator(device).manual_seed(0)

    def factors(*size: int) -> Tensor:
        return (0.5 + torch.rand(size, generator=generator, device=device)).to(dtype)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(size, generator=generator, device=device) * scale
        return values.to(dtype).contiguous(memory_format=LAYOUTS[case.layout])

    per_sample = () if static_modulation else (case.batch,)
    fan_in = shape.in_channels // shape.groups
    x = normal(case.batch, shape.in_channels, shape.size, shape.size)
    grad_output = normal(case.batch, shape.out_channels, shape.out_size, shape.out_size)
    call = Call(
        input=x,
        weight=normal(shape.out_channels, fan_in, shape.kernel, shape.kernel, scale=(fan_in * shape.kernel**2) ** -0.5),
        channel_attention=factors(case.batch, shape.in_channels),
        filter_attention=factors(*per_sample, shape.out_channels),
        spatial_attention=factors(*per_sample, shape.kernel, shape.kernel),
        stride=(shape.stride, shape.stride),
        padding=(shape.padding, shape.padding),
        groups=shape.groups,
    )
    return with_tensors(Operands(call, grad_output), lambda tensor: tensor, case.mode == "training")


def with_tensors(operands: Operands, change: Callable[[Tensor], Tensor], differentiable: bool) -> Operands:
    """The operands with each tensor changed, as leaves that get a gradient or not."""
    call, grad_output = operands
    tensors = {name: change(getattr(call, name).detach()).requires_grad_(differentiable) for name in DIFFERENTIABLE}
    return Operands(call._replace(**tensors), change(grad_output.detach()))


@contextmanager
def tf32_as_in(dtype: str) -> Iterator[None]:
    """While it lasts, cuDNN's convolutions and the op's may use TF32 or not, as the dtype says."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
