"""Train in processes that are killed or run into a full disk, and once undisturbed: -m support.killed_training FOLDER.

They are forked: importing torch takes longer than all of them.
"""

import os
import random
import resource
import signal
import sys
from pathlib import Path

import torch

from kerneldna_ops.training import learner, logs
from kerneldna_ops.training.checkpoint import TrainingError
from kerneldna_ops.training.trainer import Trainer
from support import tiny

STEPS = 5 * tiny.RECIPE.epochs


def train(folder):
    """Saved after every step."""
    Trainer(tiny.network(), tiny.data(), tiny.RECIPE, folder, save_every=0.0, progress=False).run()


def forked(work):
    """Start `work` in a process of its own."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return process


def status(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def announced(folder, pipe):
    """Train, with a byte in the pipe at the beginning of every step."""
    step = learner.Learner.step

    def announce(*arguments):
        os.write(pipe, b".")
        return step(*arguments)

    learner.Learner.step = announce
    train(folder)


def kill_at_random(folder, steps):
    """Kill a training at any moment of the next `steps` steps, which are not its last ones."""
    reader, writer = os.pipe()
    process = forked(lambda: announced(folder, writer))
    os.read(reader, 1)
    for _ in range(random.randrange(steps)):
        os.read(reader, 1)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-3))
    signal.sigwait([signal.SIGALRM])
    os.kill(process, signal.SIGKILL)
    assert status(process) == -signal.SIGKILL, "it was done before it was killed"


def run_into_full_disk(folder):
    """After two steps files may not grow beyond half of last.pt."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    step, taken = learner.Learner.step, []

    def shrink(*arguments):
        taken.append(1)
        if len(taken) == 3:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, ((folder / "last.pt").stat().st_size // 2, resource.RLIM_INFINITY)
            )
        return step(*arguments)

    learner.Learner.step = shrink
    try:
        train(folder)
    except TrainingError as error:
        print(error, flush=True)


def main(folder):
    torch.set_num_threads(1)
    logs._tensorboard = lambda folder, first_step: None  # every process would import it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    train(folder / "undisturbed")  # first, so that the others find imported what this imports
    for _ in range(3):
        kill_at_random(folder / "killed", STEPS // 5)
    process = forked(lambda: run_into_full_disk(folder / "killed"))
    assert status(process) == 0
    train(folder / "killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
