"""One training on several devices or machines, started by torchrun; alone, the same calls do next to nothing.

    torchrun --nproc-per-node 2 -m kerneldna_ops train ...

Every process runs the same program on its share of each batch. What a network keeps between runs is written the same
for one process, DistributedDataParallel and FSDP, so each goes on from what another one saved.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from . import fsdp

Value = TypeVar("Value")
Kind = Literal["ddp", "fsdp"]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among the `world_size` of one training; alone if torchrun did not start it. `device` is its own."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module, kind: Kind = "ddp", sync_batchnorm: bool = False) -> nn.Module:
        """The model, on `device`, as all processes train it together: gradients become their mean over the processes.

        Call it before the optimizer is made; alone, it gives the model back. Train by calling the result; evaluate,
        save and load by `unwrap` of it and by the functions below.

        Args:
            model: the same on every process; the first one's parameters are everybody's afterwards with "ddp".
            kind: "ddp" keeps the whole model on every device (DistributedDataParallel); "fsdp" a share of every
                parameter (torch.distributed.fsdp.fully_shard, in place), see fsdp.py.
            sync_batchnorm: whether BatchNorm in training takes the statistics of all processes' samples; CUDA only.

        Raises:
            ValueError: the kind is unknown, BatchNorm cannot be synchronised on this device, or fsdp.py says what
                cannot be sharded.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
        model = model.to(self.device)
        if self.world_size == 1:
            return model
        if sync_batchnorm:
            if self.device.type != "cuda":
                raise ValueError(f"sync_batchnorm: expected CUDA devices, got {self.device.type}")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if kind == "fsdp":
            return fsdp.shard(model, init_device_mesh(self.device.type, (self.world_size,)))
        # A kernel of one channel per group has strides that mean the same in both memory formats, and are told apart.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def share(self, items: Tensor) -> Tensor:
        """This process's part of what all do together: every world_size-th item, `rank` first."""
        return items[self.rank :: self.world_size]

    def share_of(self, batch_size: int) -> int:
        """How many samples of a batch of all processes this one trains on; ValueError if that is no whole number.

        Equal shares, each with the mean of its losses, have together the gradient of the mean over the batch.
        """
        if batch_size % self.world_size:
            raise ValueError(f"batch_size: expected a multiple of the {self.world_size} processes, got {batch_size}")
        return batch_size // self.world_size

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, on every one of them. All must call it."""
        if self.world_size == 1:
            return value
        total = value.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(value.device)

    def from_first(self, value: Value) -> Value:
        """What the first process gave, on every one of them. All must call it."""
        given = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(given, device=self.device)
        return given[0]

    def barrier(self) -> None:
        """Return when all processes have called it."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def setup(device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that torchrun started, and leave them at the end: `with setup("cuda") as processes: ...`.

    Each process takes the CUDA device of its number on its machine (nccl), or the CPU (gloo). An exception leaves the
    block at once, without waiting for the others: torchrun ends them when this process has ended.

    Raises:
        ValueError: there is no such device, or torchrun's environment is incomplete.
    """
    here = _device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device=here)
        return
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise ValueError(f"WORLD_SIZE is set, so expected all that torchrun sets, got no {', '.join(missing)}")
    if here.type == "cuda":
        torch.cuda.set_device(here)
        dist.init_process_group("nccl", device_id=here)
    else:
        dist.init_process_group("gloo")
    yield Processes(dist.get_rank(), dist.get_world_size(), here)
    dist.destroy_process_group()


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel: what evaluation calls, so that processes need not keep step.

    A model that FSDP has sharded is its own wrapper: all processes must evaluate the same number of batches.
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


def agree_on_buffers(model: nn.Module) -> None:
    """Make the buffers (BatchNorm's statistics) those of the first process. All processes must call it."""
    if dist.is_initialized():
        for buffer in unwrap(model).buffers():
            agreed = buffer.clone()
            dist.broadcast(agreed, 0)
            buffer.copy_(agreed)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """model.state_dict() with the names and shapes that it has on one process, whole, on the CPU.

    All processes must call it. Buffers become those of the first one, in the model too.
    """
    model = unwrap(model)
    agree_on_buffers(model)
    state: dict[str, Tensor] = _gathered(model.state_dict())
    return state


def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The opposite of `full_state`; every process gives the same state. load_state_dict's errors, names included."""
    model = unwrap(model)
    here = model.state_dict()
    model.load_state_dict({name: _placed(value, here.get(name)) for name, value in state.items()})


def full_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """optimizer.state_dict() as it is on one process, whole, on the CPU. All processes must call it."""
    state: dict[str, Any] = _gathered(optimizer.state_dict())
    return state


def load_full_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """The opposite of `full_optimizer_state`; every process gives the same state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {name: _placed(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": moments})


def _device(name: str) -> torch.device:
    """The device of this process: with CUDA the one of its number on this machine, unless it is alone."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected cpu or cuda, got {name!r}") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda" or (device.index is not None and "LOCAL_RANK" in os.environ):
        raise ValueError(f"device: expected cpu or cuda, got {name!r}")
    index = int(os.environ.get("LOCAL_RANK", device.index or 0))
    if index >= torch.cuda.device_count():
        raise ValueError(f"device: expected at least {index + 1} CUDA devices, found {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def _gathered(value: Any) -> Any:
    """`value` with every tensor in it whole and on the CPU."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _gathered(part) for name, part in value.items()}
    return value


def _placed(value: Any, like: Any) -> Any:
    """Of a whole tensor the part that belongs here, if `like`, of the same shape, is sharded."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value
