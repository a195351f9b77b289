"""The command `kerneldna`, also `python -m kerneldna_ops`: each subcommand is a module that is imported when called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

import torch

from ..env import report

# name -> the module that it is in, what it is for
COMMANDS = {
    "train": (".train", "train a network on a folder of images, a data set on disk or the digits"),
    "evaluate": (".evaluate", "the accuracy of a trained network"),
    "throughput": (".throughput", "images a second, by the protocol of the KernelDNA authors"),
    "latency": (".throughput", "milliseconds a batch, beside another network"),
    "cka": (".cka", "how alike the layers of a network are, and which of them could share a kernel"),
}


# What says in one sentence what is wrong with the input, the disk or the data. All else is a fault, with its traceback.
EXPECTED = (ValueError, OSError, ModuleNotFoundError, FloatingPointError)


class Command(Protocol):
    """What a subcommand's module has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; the exit status, None for 0. What of EXPECTED it raises becomes one line and status 1."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 0, 1 for an error in one line, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser("kerneldna", description="KernelDNA networks: train, measure and analyse them.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser("env", help="versions, what was built and which backends can run")
    commands: dict[str, Command] = {}
    for name, (module, help) in COMMANDS.items():
        # The help of all of them needs none of them; options are looked up in the one that is called.
        subparser = subparsers.add_parser(name, help=help, description=help, formatter_class=HelpFormatter)
        if name in arguments[:1]:
            commands[name] = cast(Command, importlib.import_module(module, __package__))
            commands[name].add_arguments(subparser)
    options = parser.parse_args(arguments)
    if options.command == "env":
        print(report())
        return 0
    try:
        return commands[options.command].run(options) or 0
    except EXPECTED as error:
        print(f"kerneldna {options.command}: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = "smaller images or batches, or a smaller network, take less"
        print(f"kerneldna {options.command}: out of memory ({' '.join(str(error).split())}); {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return 130


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a class for that of a GPU; that of a CPU is a RuntimeError, as most of what torch raises."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in ("can't allocate memory", "Storage size calculation overflowed"))


if __name__ == "__main__":
    sys.exit(main())
