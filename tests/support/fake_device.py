"""A CUDA device that needs none: it keeps time alone."""

from contextlib import nullcontext
from types import SimpleNamespace


class FakeDevice:
    """A CUDA device and its host in one time, in milliseconds: a launch takes the host a while, the kernel starts when
    those before it are done."""

    def __init__(self, most_ahead=10**6):
        self.host = self.done = 0.0
        self.kernels = []
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = device.done = max(device.host, device.done)

            def query(self):
                return self.time <= device.host

            def synchronize(self):
                device.host = max(device.host, self.time)

            def elapsed_time(self, end):
                return end.time - self.time

        sleep = lambda clocks: self.launch(0.01, clocks / 3e6)  # noqa: E731
        self.cuda = SimpleNamespace(Event=Event, _sleep=sleep, device=lambda device: nullcontext())
        self.most_ahead = most_ahead

    def launch(self, on_the_host, on_the_device):
        self.host += on_the_host
        if len(self.kernels) >= self.most_ahead:  # the queue is full: the host waits
            self.host = max(self.host, self.kernels[-self.most_ahead])
        self.done = max(self.host, self.done) + on_the_device
        self.kernels.append(self.done)
