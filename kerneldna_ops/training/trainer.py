"""The training of one network: goes on from what its folder holds, and leaves checkpoints and logs there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from .._files import remove_leftovers
from . import batches, checkpoint
from .accuracy import Scores, score
from .checkpoint import TrainingError
from .data import Augmentation, Data
from .distributed import Kind, Processes
from .interruption import Interruption
from .learner import Learner
from .lock import locked
from .logs import Logs
from .randomness import seed_of
from .recipes import Recipe

ALONE = Processes()
# How often to look at the loss where that makes a device wait, or processes talk, in steps.
LOOK_EVERY = 20


@dataclass(frozen=True)
class Result:
    """Accuracies (top 1) in percent on the validation images; `best` is the highest of all epochs, so chosen on them.

    With an average of the weights (Recipe.ema_decay) they are the averaged network's. `seconds` is the time spent
    training and validating, interruptions left out. `checkpoint` holds the best weights.
    """

    best_accuracy: float
    last_accuracy: float
    epochs: int
    seconds: float
    checkpoint: Path


@dataclass
class Standing:
    """How far a training has come: completed epochs, steps of the next one, and the sum of their losses."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    accuracy: float | None = None
    best_accuracy: float | None = None


class Trainer:
    """Train `model` on `data` by `recipe`, from where `folder` left off if a training of the same is in it.

    Writes there: last.pt (all that going on needs), best.pt (the weights of the best epoch), epochs.csv, steps.csv and,
    if tensorboard is installed, its event files. Killed at any moment and started again, with the same arguments, it
    ends with the same weights, bit for bit on a CPU. Ctrl-C and SIGTERM stop it after saving. While it runs, no second
    training can run in the folder.

    Args:
        model: scores [N, data.classes] from images [N, data.channels, H, W], its weights as training starts. Modules
            in eval mode stay in it, unless the model as a whole is.
        data: see sources.open_data.
        recipe: see recipes.py.
        folder: where checkpoints and logs go; made if missing.
        network: how to build the model again, kept in checkpoints: the arguments of models.create_model by name.
            None for a model that it does not build.
        seed: of the order and the augmentation of the images, and of dropout.
        amp: torch.bfloat16 or torch.float16 for torch.autocast in that dtype; float16 scales gradients.
        channels_last: whether model and images are in that memory format.
        workers: processes that load images; 0 loads them in this one.
        save_every: seconds between checkpoints inside an epoch; one is written after every epoch too.
        processes: see distributed.py; the model is trained on processes.device.
        kind, sync_batchnorm: those of Processes.wrap, for several processes.
        progress: whether to show bars and lines.

    Raises:
        ValueError: an argument does not fit.
        TrainingError: the folder holds another training, or one that is running, a file cannot be written, or the loss
            is no number.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        folder: Path,
        *,
        network: Mapping[str, Any] | None = None,
        seed: int = 0,
        amp: torch.dtype | None = None,
        channels_last: bool = False,
        workers: int = 0,
        save_every: float = 600.0,
        processes: Processes = ALONE,
        kind: Kind = "ddp",
        sync_batchnorm: bool = False,
        progress: bool = True,
    ) -> None:
        if amp not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"amp: expected None, torch.bfloat16 or torch.float16, got {amp}")
        if len(data.train) < recipe.batch_size:
            raise ValueError(
                f"batch_size: expected at most {len(data.train)}, the number of training images,"
                f" got {recipe.batch_size}"
            )
        processes.share_of(recipe.batch_size)
        self.data, self.recipe, self.seed, self.processes = data, recipe, seed, processes
        self.amp, self.channels_last, self.workers, self.save_every = amp, channels_last, workers, save_every
        self.progress = progress and processes.first
        self.folder, self.last, self.best = folder, folder / "last.pt", folder / "best.pt"
        self.steps = len(self._batches(0))
        self.about: dict[str, Any] = {
            "network": dict(network or {"name": type(model).__name__}),
            "data": data.describe(),
            "recipe": asdict(recipe),
            "computation": {"amp": amp and str(amp).removeprefix("torch."), "sync_batchnorm": sync_batchnorm},
            "seed": seed,
        }
        self.learner = Learner(model, recipe, self.steps, amp, channels_last, processes, kind, sync_batchnorm)
        self.standing = Standing()
        self._clock = perf_counter()
        self._saved = self._clock
        self._logs: Logs | None = None
        self._tqdm = _import_tqdm() if self.progress else None

    def run(self) -> Result:
        """Train to the end, or say what was reached if it is there already."""
        # The first process alone, which is the one that writes: the others wait for what it reads, or end with it.
        with locked(self.folder) if self.processes.first else nullcontext():
            self._begin_or_go_on()
            standing = self.standing
            if standing.epoch < self.recipe.epochs:
                self._say_what_is_left_over()
                with self._logging(), Interruption(self.processes.world_size == 1) as interruption:
                    while standing.epoch < self.recipe.epochs:
                        self._train_epoch(interruption)
                        self._finish_epoch(interruption)
        assert standing.accuracy is not None
        assert standing.best_accuracy is not None
        return Result(standing.best_accuracy, standing.accuracy, standing.epoch, standing.seconds, self.best)

    def _begin_or_go_on(self) -> None:
        content = None
        if self.processes.first:
            content = self._read_folder()
        content = self.processes.from_first(content)
        self._clock = self._saved = perf_counter()
        if content is None:
            # So that a folder that cannot be written shows now, and best.pt never stands there alone.
            self._save()
            return
        self.standing = Standing(**{name: content[name] for name in asdict(self.standing)})
        try:
            self.learner.load(content, self.standing.epoch * self.steps + self.standing.step)
        except ValueError as error:
            raise TrainingError(f"{self.last}: {error}; {checkpoint.ADVICE}") from error
        if self.standing.epoch == self.recipe.epochs:
            self._say(f"{self.last} is of the last epoch: nothing is left to do.")
        else:
            self._say(f"Going on after {self._where()}, as {self.last} has it.")

    def _read_folder(self) -> dict[str, Any] | None:
        """The content of last.pt if it is of this training, None if there is nothing of a training."""
        for path in (self.last, self.best):
            remove_leftovers(path)
        if self.last.exists():
            content = checkpoint.load(self.last)
            if "optimizer" not in content:
                raise TrainingError(f"{self.last}: holds the weights alone, as best.pt does, not all to go on from")
            self._check(content)
            return content
        for name in ("best.pt", "steps.csv", "epochs.csv"):
            if (self.folder / name).exists():
                raise TrainingError(f"{self.folder}: holds {name} but no last.pt to go on from; {checkpoint.ADVICE}")
        return None

    def _check(self, content: Mapping[str, Any]) -> None:
        """TrainingError unless the content of last.pt is of this training, all of it and within it."""
        checkpoint.check_entries(self.last, content, checkpoint.TRAINING)
        checkpoint.check_same(self.last, content, self.about)
        checkpoint.check_entries(self.last, content, self.learner.kinds)
        state = self.learner.bare_model.state_dict()
        for saved in (content, content["average"] or content):
            checkpoint.check_shapes(self.last, saved["model"], state)
        epochs, epoch, step = self.recipe.epochs, content["epoch"], content["step"]
        # Whatever the number of processes was: see batches.cut.
        steps = math.ceil(len(self.data.train) / self.recipe.batch_size) if epoch < epochs else 0
        if not (0 <= epoch <= epochs and 0 <= step <= steps):
            raise TrainingError(
                f"{self.last}: expected at most {epochs} epochs and {steps} steps of the next, got {epoch} and {step}"
            )
        if epoch and None in (content["accuracy"], content["best_accuracy"]):
            raise TrainingError(f"{self.last}: expected an accuracy after {epoch} epochs, got none")

    def _say_what_is_left_over(self) -> None:
        """In one line, if there is anything."""
        sizes = [len(batch) for batch in self._batches(0)]
        without = len(self.data.train) - sum(sizes)
        if sizes[-1] != self.recipe.batch_size or without:
            left_out = f"; {without} left out, others each time, so that all processes have as many" if without else ""
            self._say(f"{self.steps} steps an epoch, the last of {sizes[-1]} images{left_out}")

    def _batches(self, epoch: int) -> list[Tensor]:
        """Indices of the training images, one tensor for each step of all processes together."""
        order = batches.order(len(self.data.train), self.seed, epoch)
        return batches.cut(order, self.recipe.batch_size, self.processes.world_size)

    def _train_epoch(self, interruption: Interruption) -> None:
        """The steps of the epoch that are left."""
        standing, recipe = self.standing, self.recipe
        left = self._batches(standing.epoch)[standing.step :]
        augmentation = Augmentation(self.seed, standing.epoch, recipe.crop_padding, recipe.flip)
        device = self.processes.device.type
        look_every = 1 if device == "cpu" and self.processes.world_size == 1 else LOOK_EVERY
        shares = [self.processes.share(batch) for batch in left]
        rates: list[float] = []
        losses: list[Tensor] = []
        with self._bar() as advance:
            for images, labels in batches.load(
                self.data.train, shares, augmentation, self.workers, pin_memory=device == "cuda"
            ):
                # Dropout and the like: nothing of a generator has to be saved.
                torch.manual_seed(seed_of("step", self.seed, standing.epoch, standing.step, self.processes.rank))
                rates.append(self.learner.learning_rate)
                losses.append(self.learner.step(images, labels))
                standing.step += 1
                if len(losses) == look_every or standing.step == self.steps:
                    self._look(rates, losses, interruption)
                    advance(len(losses))
                    rates, losses = [], []

    def _look(self, rates: list[float], losses: list[Tensor], interruption: Interruption) -> None:
        """Log the latest steps; stop if a loss is no number or on Ctrl-C; save if it is time, all processes alike."""
        standing = self.standing
        wishes = [interruption.came, self.processes.first and perf_counter() - self._saved > self.save_every]
        values = torch.cat([torch.stack(losses), torch.tensor(wishes, dtype=torch.float32, device=losses[0].device)])
        *sums, stop, due = self.processes.sum(values).tolist()
        first = standing.step - len(losses) + 1
        for step, (rate, loss_sum) in enumerate(zip(rates, sums, strict=True), start=first):
            loss = loss_sum / self.processes.world_size
            if not math.isfinite(loss):
                where = f"epoch {standing.epoch + 1}, step {step} of {self.steps}"
                raise TrainingError(f"the loss is {loss} in {where}; {self.last} keeps what was saved before")
            standing.loss_sum += loss
            if self._logs is not None:
                self._logs.step(standing.epoch * self.steps + step, standing.epoch + 1, rate, loss)
        if stop or due:
            self._save()
        if stop:
            self._stop()

    def _finish_epoch(self, interruption: Interruption) -> None:
        standing, learner = self.standing, self.learner
        learner.settle()
        scores = self._score(learner.bare_model)
        averaged = None if learner.average is None else self._score(learner.average.module)
        loss = standing.loss_sum / standing.step
        standing.accuracy = (averaged or scores).top1
        standing.epoch, standing.step, standing.loss_sum = standing.epoch + 1, 0, 0.0
        self._count_seconds()
        if self._logs is not None:
            row = (loss, scores.loss, scores.top1, averaged and averaged.top1, standing.seconds)
            self._logs.epoch(standing.epoch, standing.epoch * self.steps, *row)
        better = standing.best_accuracy is None or standing.accuracy > standing.best_accuracy
        if better:
            standing.best_accuracy = standing.accuracy
        self._save(better)
        self._say(
            f"epoch {standing.epoch}/{self.recipe.epochs}: loss {loss:.4f}, validation accuracy {scores.top1:.2f} %"
            + ("" if averaged is None else f", {averaged.top1:.2f} % with averaged weights")
        )
        if standing.epoch < self.recipe.epochs and self.processes.sum(torch.tensor(float(interruption.came))):
            self._stop()

    def _score(self, model: nn.Module) -> Scores:
        return score(
            model,
            self.data.validation,
            amp=self.amp,
            channels_last=self.channels_last,
            workers=self.workers,
            processes=self.processes,
        )

    def _save(self, better: bool = False) -> None:
        """Write last.pt, and before it best.pt if this epoch is `better`: killed in between, it is done again."""
        self._count_seconds()
        state = self.learner.state()
        for name, value in state["model"].items():
            if value.is_floating_point() and not value.isfinite().all():
                raise TrainingError(
                    f"{name} is not finite after {self._where()}; {self.last} keeps what was saved before"
                )
        content = {**self.about, **asdict(self.standing)}
        if self.processes.first:
            if self._logs is not None:
                self._logs.flush()
            if better:
                weights = state["model"] if state["average"] is None else state["average"]["model"]
                checkpoint.save(self.best, {**content, "model": weights})
            checkpoint.save(self.last, {**content, **state})
        self._saved = perf_counter()

    def _stop(self) -> None:
        raise KeyboardInterrupt(f"Stopped after {self._where()}; the same command goes on from {self.last}.")

    def _where(self) -> str:
        standing = self.standing
        return f"epoch {standing.epoch}" + (f" and {standing.step} steps" if standing.step else "")

    def _count_seconds(self) -> None:
        now = perf_counter()
        self.standing.seconds += now - self._clock
        self._clock = now

    @contextmanager
    def _logging(self) -> Iterator[None]:
        if not self.processes.first:
            yield
            return
        done = self.standing.epoch * self.steps + self.standing.step
        with Logs(self.folder, self.standing.epoch, done) as self._logs:
            yield

    @contextmanager
    def _bar(self) -> Iterator[Callable[[int], object]]:
        """A function that moves the bar of the epoch by some steps."""
        if self._tqdm is None:
            yield lambda steps: None
            return
        title = f"epoch {self.standing.epoch + 1}/{self.recipe.epochs}"
        arguments = {"total": self.steps, "initial": self.standing.step, "unit": "step", "leave": False}
        with self._tqdm(desc=title, mininterval=0.5, **arguments) as bar:
            yield bar.update

    def _say(self, line: str) -> None:
        if self.progress:
            print(line, flush=True)


def _import_tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        print("tqdm is not installed: no progress bars.")
        return None
    return tqdm
