"""What changes in a training: the network, its optimizer and all that goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from .checkpoint import STATE, Kinds
from .distributed import (
    Kind,
    Processes,
    agree_on_buffers,
    full_optimizer_state,
    full_state,
    load_full_optimizer_state,
    load_full_state,
    unwrap,
)
from .recipes import Recipe
from .schedule import warmup_then_cosine


class Learner:
    """`model` as `recipe` trains it, in `steps` steps an epoch; see trainer.Trainer for the other arguments.

    A model in eval mode is put in training mode. In one that is in training mode each module stays as it is, so that
    its owner can keep some, a frozen BatchNorm for example, in eval mode.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps: int,
        amp: torch.dtype | None,
        channels_last: bool,
        processes: Processes,
        kind: Kind,
        sync_batchnorm: bool = False,
    ) -> None:
        self.processes = processes
        self.amp = amp
        self.label_smoothing = recipe.label_smoothing
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        model = model.to(processes.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        if not model.training:
            model.train()
        self.average: AveragedModel | None = None
        if recipe.ema_decay is not None:
            decay = recipe.ema_decay
            if kind == "fsdp":  # one by one: sharded parameters and whole buffers do not go into one list
                self.average = AveragedModel(model, avg_fn=get_ema_avg_fn(decay), use_buffers=True)
                processes.wrap(self.average.module, kind)
            else:
                self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.model = processes.wrap(model, kind, sync_batchnorm)
        self.optimizer = SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self._highest_rate = recipe.learning_rate
        self._warmup, self._total = recipe.warmup_epochs * steps, recipe.epochs * steps
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=amp == torch.float16)
        self._reach(0)

    @property
    def bare_model(self) -> nn.Module:
        return unwrap(self.model)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from a batch, this process's share; the mean loss of the share, before the step."""
        device = self.processes.device
        images = images.to(device, non_blocking=True, memory_format=self.memory_format)
        labels = labels.to(device, non_blocking=True)
        self.optimizer.zero_grad()
        with torch.autocast(device.type, self.amp, enabled=self.amp is not None):
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._reach(self._step + 1)
        if self.average is not None:
            self.average.update_parameters(self.bare_model)
        return loss.detach().float()

    def settle(self) -> None:
        """Make the networks the same on all processes, and drop the gradients: before evaluation."""
        self.optimizer.zero_grad()
        agree_on_buffers(self.model)
        if self.average is not None:
            agree_on_buffers(self.average)

    def state(self) -> dict[str, Any]:
        """All of it, on the CPU, for `load`. All processes must call it."""
        average = self.average
        return {
            "model": full_state(self.bare_model),
            "average": average and {"model": full_state(average.module), "updates": int(average.n_averaged)},
            "optimizer": full_optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }

    @property
    def kinds(self) -> Kinds:
        """What a `state` has."""
        return {
            "model": STATE,
            "average": NoneType if self.average is None else {"model": STATE, "updates": int},
            "optimizer": {"state": dict},
            "scaler": {name: type(value) for name, value in self.scaler.state_dict().items()},
        }

    def load(self, state: Mapping[str, Any], step: int) -> None:
        """Go on from a `state` after so many steps.

        Raises:
            ValueError: its optimizer is one of other parameters. Nothing has changed.
        """
        moments, groups = state["optimizer"]["state"], self.optimizer.state_dict()["param_groups"]
        parameters = dict(enumerate(self.model.parameters()))
        for number, values in moments.items():
            moment = values.get("momentum_buffer") if isinstance(values, dict) else None
            if number not in parameters or getattr(moment, "shape", None) != parameters[number].shape:
                raise ValueError(f"holds an optimizer of other parameters, by its momentum number {number}")
        load_full_state(self.bare_model, state["model"])
        if self.average is not None:
            load_full_state(self.average.module, state["average"]["model"])
            self.average.n_averaged.fill_(state["average"]["updates"])
        load_full_optimizer_state(self.optimizer, {"state": moments, "param_groups": groups})
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._reach(step)

    def _reach(self, step: int) -> None:
        self._step = step
        for group in self.optimizer.param_groups:
            group["lr"] = self._highest_rate * warmup_then_cosine(step, self._warmup, self._total)
