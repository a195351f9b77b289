"""Whether a call is eager: nobody makes a graph, a trace or a transform of it, so that Python may look at values.

A file of its own because functional and nn both ask, and nn stands above functional."""

import torch
from torch.autograd import forward_ad


def is_eager() -> bool:
    """Whether none of these is at work: torch.compile and torch.export, torch.jit.trace, torch.func, forward-mode
    derivatives, and modes of torch dispatch, such as torch.utils.flop_counter's and that of fake tensors."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )
