"""Where the checkout is, and how these tests run a program."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(command, **options):
    """The command's standard output; its whole output in the failure where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, (
        f"{command} exited with {done.returncode}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    )
    return done.stdout
