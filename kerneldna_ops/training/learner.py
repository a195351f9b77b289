"""What changes in a training: the network, its optimizer and all that goes with them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

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
    """`model` as `recipe` trains it, in `steps` steps an epoch; see trainer.Trainer for the other arguments."""

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
        warmup, total = recipe.warmup_epochs * steps, recipe.epochs * steps
        self.schedule = LambdaLR(self.optimizer, lambda step: warmup_then_cosine(step, warmup, total))
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=amp == torch.float16)
        if self.scaler.is_enabled():
            # The scaler leaves out the steps whose gradients overflow, usually the first one.
            warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler.step\(\)` before", UserWarning)

    @property
    def bare_model(self) -> nn.Module:
        return unwrap(self.model)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from a batch, this process's share; the mean loss of the share, before the step."""
        device = self.processes.device
        images = images.to(device, non_blocking=True, memory_format=self.memory_format)
        labels = labels.to(device, non_blocking=True)
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast(device.type, self.amp, enabled=self.amp is not None):
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
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
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        load_full_state(self.bare_model, state["model"])
        if self.average is not None:
            load_full_state(self.average.module, state["average"]["model"])
            self.average.n_averaged.fill_(state["average"]["updates"])
        load_full_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
