"""The course of a training: CSV files, and TensorBoard where it is installed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .checkpoint import TrainingError, writing

STEP_COLUMNS = ("step", "epoch", "learning_rate", "loss")
EPOCH_COLUMNS = ("epoch", "step", "loss", "validation_loss", "validation_accuracy", "averaged_accuracy", "seconds")


class CsvLog:
    """Rows of `columns`, the first of them a number that grows. What an earlier training wrote after `last` goes: it
    was cut off before its next checkpoint, and will happen again."""

    def __init__(self, path: Path, columns: tuple[str, ...], last: int) -> None:
        self.path = path
        self.columns = columns
        header = ",".join(columns) + "\n"
        with writing(path):
            kept = self._length_up_to(header, last)
            self._file = path.open("r+" if kept else "w", newline="", encoding="utf-8")
            if kept:
                self._file.truncate(kept)
                self._file.seek(kept)
            else:
                self._file.write(header)

    def write(self, *row: object) -> None:
        with writing(self.path):
            text = ["" if value is None else str(value) for value in row]
            self._file.write(",".join(text) + "\n")

    def flush(self) -> None:
        """On to the disk."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # a full disk was reported when the row was written
            self._file.close()

    def _length_up_to(self, header: str, last: int) -> int:
        """Bytes of the whole lines to keep; 0 for a file that is not there, or torn in its header."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if not lines or not lines[0].endswith(b"\n"):
            return 0
        if lines[0] != header.encode():
            found = lines[0].decode(errors="replace").strip()
            raise TrainingError(f"{self.path}: expected the columns {', '.join(self.columns)}, got {found}")
        length = len(lines[0])
        for line in lines[1:]:
            number = line.split(b",")[0]
            if not line.endswith(b"\n") or not number.isdigit() or int(number) > last:
                break
            length += len(line)
        return length


class Logs:
    """steps.csv, epochs.csv and TensorBoard's files of the folder, from after `step` steps and `epoch` epochs on."""

    def __init__(self, folder: Path, epoch: int, step: int) -> None:
        self._steps = CsvLog(folder / "steps.csv", STEP_COLUMNS, step)
        self._epochs = CsvLog(folder / "epochs.csv", EPOCH_COLUMNS, epoch)
        self._folder = folder / "tensorboard"
        self._board = _tensorboard(self._folder, step + 1)

    def step(self, *row: Any) -> None:
        """A row of STEP_COLUMNS."""
        self._steps.write(*row)
        self._to_board("train", row[0], dict(zip(STEP_COLUMNS[2:], row[2:], strict=True)))

    def epoch(self, *row: Any) -> None:
        """A row of EPOCH_COLUMNS; None for what there is not."""
        self._epochs.write(*row)
        self._to_board("epoch", row[1], dict(zip(EPOCH_COLUMNS[2:], row[2:], strict=True)))

    def flush(self) -> None:
        """On to the disk: called before a checkpoint, which says how much of it counts."""
        self._steps.flush()
        self._epochs.flush()
        if self._board is not None:
            with writing(self._folder):
                self._board.flush()

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._steps.close()
        self._epochs.close()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()

    def _to_board(self, group: str, step: int, values: dict[str, Any]) -> None:
        if self._board is None:
            return
        with writing(self._folder):
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(f"{group}/{name}", value, step)


def _tensorboard(folder: Path, first_step: int) -> Any:
    """A writer whose files hide what earlier ones have from `first_step` on, or None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("tensorboard is not installed: the course of the training is in the CSV files alone.")
        return None
    with writing(folder):
        return SummaryWriter(folder, purge_step=first_step)
