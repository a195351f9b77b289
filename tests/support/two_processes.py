"""What test_distributed.py starts twice by torchrun: each process writes what it found to the folder it is given."""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.nn.functional import all_reduce
from torch.distributed.tensor import DTensor

from kerneldna_ops._eval_mode import eval_mode
from kerneldna_ops.nn import ChildConv2d, ODConv2d
from kerneldna_ops.training.accuracy import score
from kerneldna_ops.training.distributed import (
    full_optimizer_state,
    full_state,
    load_full_optimizer_state,
    load_full_state,
    setup,
    unwrap,
)
from kerneldna_ops.training.learner import Learner
from kerneldna_ops.training.trainer import Trainer
from support import tiny

CHANNELS = 12
STEPS = 3
BATCH = 8


class Block(nn.Module):
    """A parent between its children, one of which is fully dynamic."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.kids = nn.ModuleList(
            [ChildConv2d(self.parent), ChildConv2d(self.parent, filter="dynamic", spatial="dynamic")]
        )
        self.norm = nn.GroupNorm(3, CHANNELS)

    def forward(self, x):
        return x + self.kids[1](F.relu(self.norm(self.parent(F.relu(self.kids[0](x))))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def network(seed=0):
    """All adapters away from the identity, so that every gradient counts."""
    torch.manual_seed(seed)
    model = Network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def frozen(model):
    """In training, but for BatchNorm, whose batch statistics would depend on how a batch is shared out."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS, BATCH, 3, 6, 5, generator=generator)
    return zip(images, torch.randint(5, (STEPS, BATCH), generator=generator), strict=True)


def new_optimizer(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


def train(model, share):
    """The optimizer after STEPS steps on `share` of every batch."""
    frozen(model)
    optimizer = new_optimizer(model)
    for images, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(share(images)), share(labels)).backward()
        optimizer.step()
    return optimizer


@torch.no_grad()
def scores(model):
    """In eval mode, without gradients."""
    return unwrap(model)(next(batches())[0])


def data_parallel(processes):
    model = processes.wrap(network(seed=processes.rank))  # the first process's parameters become everybody's
    elements = []

    def count(group, bucket):
        elements.append(bucket.buffer().numel())
        return allreduce_hook(group, bucket)

    model.register_comm_hook(None, count)
    optimizer = train(model, processes.share)
    own = {name: value.clone() for name, value in unwrap(model).state_dict().items()}
    return {
        "own parameters": own,
        "state": full_state(model),
        "optimizer": full_optimizer_state(optimizer),
        "elements reduced": elements,
    }


def fully_sharded(processes):
    model = processes.wrap(network(), "fsdp")
    weight = model.blocks[0].parent.weight
    optimizer = train(model, processes.share)
    found = {
        "state": full_state(model),
        "optimizer": full_optimizer_state(optimizer),
        "share of the parent": weight.to_local().numel(),
    }
    again = new_optimizer(model)
    load_full_optimizer_state(again, found["optimizer"])
    found["optimizer again"] = full_optimizer_state(again)

    model.eval()
    found["scores"] = scores(model)
    found["all sharded"] = all(isinstance(parameter, DTensor) for parameter in model.parameters())
    load_full_state(model, network(seed=7).state_dict())
    found["scores of another state"] = scores(model)
    try:
        load_full_state(model, {**network().state_dict(), "head.weight": torch.zeros(6, CHANNELS)})
    except RuntimeError as error:
        found["refusal"] = str(error)
    return found


def learnt(processes, kind):
    """The state after two steps of `kerneldna train`'s own loop, an average of the weights and an evaluation between,
    and the state of another learner that loads it."""
    images, labels = tiny.data().train.load(processes.share(torch.arange(8)))
    first, again = (Learner(tiny.network(seed), tiny.RECIPE, 5, None, False, processes, kind) for seed in (0, 1))
    for step in range(2):
        torch.manual_seed(step)
        first.step(images, labels)
        first.settle()
        for model in (first.bare_model, first.average.module):
            with eval_mode(model), torch.no_grad():
                model(images)
    state = first.state()
    again.load(state, 2)
    return state, again.state()


def evaluated(processes):
    """The scores on seven images, of which one process has one more, and on a single one, which one process has."""
    return {
        (count, size): asdict(score(tiny.network(), tiny.data(validation=count).validation, size, processes=processes))
        for count, size in ((7, 3), (7, 1), (1, 8))
    }


class NormOfAll(nn.SyncBatchNorm):
    """SyncBatchNorm for the CPU, which torch's own refuses, on [N, C] or [N, C, 1, 1] with as many samples in each
    process."""

    def forward(self, input):
        x = input.flatten(1)
        mean = all_reduce(x.mean(0)) / 2
        var = all_reduce((x - mean).square().mean(0)) / 2
        return ((x - mean) / (var + self.eps).sqrt() * self.weight + self.bias).view_as(input)


# name -> (the layer, a parameter of what stands around its norm)
WITH_A_NORM_INSIDE = {
    "child": (lambda **norm: ChildConv2d(nn.Conv2d(CHANNELS, 4, 3), **norm), "adapter.se.fc1.weight"),
    "odconv": (lambda **norm: ODConv2d(CHANNELS, 4, 3, **norm), "attention.channel_fc.weight"),
}


def one_sample_each(processes, name):
    """The output of a layer and a parameter's gradient, the sum over all, for one sample in each process."""
    make, parameter = WITH_A_NORM_INSIDE[name]
    torch.manual_seed(3)
    layer = make(norm_layer=NormOfAll)
    output = layer(processes.share(torch.randn(2, CHANNELS, 5, 4)))
    output.square().sum().backward()
    return output.detach(), processes.sum(layer.get_parameter(parameter).grad)


def trained(processes, folder):
    """Epochs of a whole training, whose folder the first process alone holds."""
    return Trainer(tiny.network(), tiny.data(), tiny.RECIPE, folder, processes=processes, progress=False).run().epochs


def buffers(processes):
    model = processes.wrap(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    unwrap(model)[1].running_mean.fill_(processes.rank)
    return full_state(model)["1.running_mean"]


def main(folder):
    with setup() as processes:
        try:
            processes.wrap(network(), sync_batchnorm=True)
        except ValueError as error:
            refusal = str(error)
        found = {
            "rank": processes.rank,
            "world_size": processes.world_size,
            "sum": processes.sum(torch.tensor([1.0, processes.rank])),
            "from first": processes.from_first({"rank": processes.rank}),
            "share": processes.share(torch.arange(5)),
            "sync_batchnorm": refusal,
            "ddp": data_parallel(processes),
            "fsdp": fully_sharded(processes),
            "buffers": buffers(processes),
            "one sample each": {name: one_sample_each(processes, name) for name in WITH_A_NORM_INSIDE},
            "scores": evaluated(processes),
            "epochs": trained(processes, folder / "training"),
            "learnt": {kind: learnt(processes, kind) for kind in ("ddp", "fsdp")},
        }
        processes.barrier()
        torch.save(found, folder / f"{processes.rank}.pt")
        if processes.rank == 1:
            raise ArithmeticError("the second process fails")
    if not torch.distributed.is_initialized():
        (folder / "left").touch()
    time.sleep(60)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
