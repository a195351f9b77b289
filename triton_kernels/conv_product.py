"""The matrix product that a convolution is, in any of its forms."""

import functools
from typing import NamedTuple

from torch import Tensor

from . import conv_forward, conv_forward_tma
from .config import Config
from .operands import ABSENT, Scale, input_precision
from .problem import Pair, Problem

Product = conv_forward.Product | conv_forward_tma.Product
_PRODUCTS: dict[str, type[Product]] = {"P": conv_forward.Product} | dict.fromkeys("SMX", conv_forward_tma.Product)


class Result(NamedTuple):
    """dots [N, channels of y], float32: the sums over a sample's pixels of dot_with times the product before f."""

    y: Tensor
    dots: Tensor | None


@functools.lru_cache(maxsize=4096)
def products(
    problem: Problem, config: Config, g: Pair, f: int, precision: str, transposed: bool, *compiled_for: object
) -> Product:
    return _PRODUCTS[config.form](problem, config, g, f, precision, transposed)


def product(
    problem: Problem,
    config: Config,
    x: Tensor,
    g: Scale,
    f: Scale,
    has_bias: bool = False,
    has_dot: bool = False,
    transposed: bool = False,
) -> Product:
    """For operands like these; the same one again for those that Triton compiles the same way."""
    compiled_for = x.device, x.dtype, g.tensor is None, f.tensor is None, has_bias, has_dot
    return products(problem, config, g[1:], f.sample_stride, input_precision(), transposed, *compiled_for)


def forward(
    x: Tensor,
    w: Tensor,
    problem: Problem,
    config: Config,
    g: Scale = ABSENT,
    f: Scale = ABSENT,
    bias: Tensor | None = None,
    dot_with: Tensor | None = None,
    transposed: bool = False,
) -> Result:
    """y [N, OH, OW, O] = f * conv(g * x, w) + bias, of contiguous x [N, H, W, C] and w [O, T, C/groups].

    dot_with, of y's shape, asks for Result.dots. transposed: y [N, H, W, C] is the gradient for the forward's input and
    x [N, OH, OW, O] that for its output; g [N, T, O] is its f * s, and f [N, C] its c. Form P alone has these two.
    """
    run = product(problem, config, x, g, f, bias is not None, dot_with is not None, transposed)
    y = x.new_empty(run.shape)
    return Result(y, run(x, w, g.tensor, f.tensor, bias, dot_with, y))
