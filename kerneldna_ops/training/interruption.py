"""Ctrl-C, and the signal by which clusters end a job, that wait for a good moment."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Inside the block Ctrl-C and SIGTERM are only noted, in `came`.

    In one of several processes that is all: torchrun passes on the Ctrl-C that the process got from the terminal, and
    kills it after a while. Alone, the second Ctrl-C is a KeyboardInterrupt as everywhere. In a thread other than the
    first, which gets no signals, the block does nothing.
    """

    def __init__(self, alone: bool) -> None:
        self.came = False
        self._alone = alone
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.came and self._alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._alone and not self.came:
            print("\nStopping after saving; Ctrl-C stops at once, without.", file=sys.stderr, flush=True)
        self.came = True
