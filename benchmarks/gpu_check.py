"""One run on a machine with an NVIDIA GPU: the tests there, then the benchmarks, the most important first, as far as
the minutes go. The package must be installed, with its extras for tests and benchmarks.

    python -m benchmarks.gpu_check                                  # make gpu-check
    python -m benchmarks.gpu_check --minutes 9 --steps tests        # in parts, each within its minutes
    python -m benchmarks.gpu_check --dry-run                        # no GPU: tiny shapes, figures that mean nothing

In the folder --out, all of it written as it is found, so that a run cut short leaves what it had:

record.json, record.txt     the machine, its versions, the commit, how each step ended, and the summary
latency.json, report.md     what benchmarks.latency measured, with plots; networks.json, networks.md,
                            squeeze_excite.json, modulated.json and modulated.md likewise
*.log                       what each step printed
tuned/                      the autotuner's table; <device>.json is proposed for triton_kernels/configs/tuned/

Exits 1 where a test failed or an answer was wrong. Not verified on a GPU."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerneldna_ops.env import environment, report

from . import report as latency_report
from .cases import DEPTHWISE_SHAPES, PLAIN_SHAPES, POINTWISE_SHAPES, STRIDED_SHAPES
from .devices import CUDA, STAND_IN
from .process import ROOT
from .summary import summarise

MINUTES = 9.0
# The tests may take so much of the time; at the end so many seconds are for the report.
TESTS_SHARE, LAST_SECONDS = 0.45, 15.0
# What a step that was told to end may take for its last words.
GRACE_SECONDS = 10.0
LAST_LINES = 4

PLAIN, OTHERS = ",".join(PLAIN_SHAPES), ",".join(POINTWISE_SHAPES + STRIDED_SHAPES + DEPTHWISE_SHAPES)
OURS = "op,op_static,triton,cuda,composite,composite_static"
BOTH = "forward,training"


@dataclass(frozen=True)
class Step:
    """A module that is run, and its arguments."""

    name: str
    module: str
    arguments: tuple[str, ...]
    share: float = 1.0  # of the time that is left


def latency(
    name: str, shapes: str, batches: str, candidates: str, modes: str = BOTH, dtype: str = "bfloat16", **more: str
) -> Step:
    named = {"shapes": shapes, "batches": batches, "candidates": candidates, "modes": modes, "dtype": dtype}
    named = {**named, "layouts": "channels_last", **more}
    arguments = (f"--{option}={value}" for option, value in named.items())
    return Step(name, "benchmarks.latency", tuple(arguments))


def steps(out: Path) -> Iterator[Step]:
    processes = str(min(8, os.cpu_count() or 1))
    yield Step("tests", "pytest", ("tests", f"--device={CUDA}", "-q", "-n", processes), TESTS_SHARE)
    measured = [
        latency("3x3-b32", PLAIN, "32", f"{OURS},grouped,loop"),
        latency("3x3-b128", PLAIN, "128", f"{OURS},grouped"),
        latency("others-b32", OTHERS, "32", f"{OURS},grouped"),
        latency("3x3-small", PLAIN, "1,8", f"{OURS},grouped,loop", modes="forward"),
        Step("networks", "benchmarks.networks", ("--dtype=bfloat16", "--layouts=channels_last")),
        Step("squeeze-excite", "benchmarks.squeeze_excite", ("--dtype=bfloat16", "--batches=1,8,128")),
        latency("3x3-dtypes", PLAIN, "32", OURS, dtype="float16,tf32,float32"),
        latency("3x3-compiled", PLAIN, "32", "op,compiled_static,compiled_composite", modes="forward"),
        latency("others-b128", OTHERS, "128", OURS),
        latency("3x3-nchw", PLAIN, "32", OURS, layouts="nchw"),
        Step("modulated", "benchmarks.modulated", (f"--results={out}",)),
    ]
    yield from (on_device(step, CUDA, out) for step in measured)


def dry_steps(out: Path) -> Iterator[Step]:
    """The same ways through the code, on a machine without a GPU."""
    few = ("tests/op/test_conv_forward.py", "-k", "composite and one_of_everything")
    yield Step("tests", "pytest", (*few, f"--device={STAND_IN}", "-q"), TESTS_SHARE)
    of = {"dtype": "float16", "rounds": "3", "threads": "1"}
    tiny = ("--networks=mobilenet_v2_050", "--layouts=nchw", "--batch=4", "--size=64", "--rounds=3", "--threads=1")
    measured = [
        latency("3x3-b32", "8@3", "2", "op,triton,composite,grouped", modes="forward", **of),
        latency("3x3-b128", "8@3", "2", "op,composite", modes="training", **of),
        Step("networks", "benchmarks.networks", tiny),
    ]
    yield from (on_device(step, STAND_IN, out) for step in measured)


def on_device(step: Step, device: str, out: Path) -> Step:
    more = {
        "benchmarks.latency": ("--tune", f"--json={out / 'latency.json'}"),
        "benchmarks.networks": (f"--json={out / 'networks.json'}",),
        "benchmarks.squeeze_excite": (f"--json={out / 'squeeze_excite.json'}",),
    }.get(step.module, ())
    return Step(step.name, step.module, (*step.arguments, f"--device={device}", *more), step.share)


def run(step: Step, out: Path, seconds: float, variables: dict[str, str]) -> dict[str, Any]:
    """How it ended. The variables are for benchmarks. A step that takes longer is interrupted; what it wrote stays."""
    arguments = list(step.arguments)
    if step.module == "benchmarks.latency":
        arguments.append(f"--minutes={max(seconds - 2 * GRACE_SECONDS, 0) / 60:.2f}")
    command = [sys.executable, "-u", "-m", step.module, *arguments]
    begin = time.monotonic()
    variables = {} if step.module == "pytest" else variables
    with (out / f"{step.name}.log").open("w") as log:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = "ended"
        for signal_number, patience in ((signal.SIGINT, seconds), (signal.SIGKILL, GRACE_SECONDS)):
            try:
                child.wait(max(patience, 1))
                break
            except subprocess.TimeoutExpired:
                ended = "no time left"
                os.killpg(child.pid, signal_number)
        code = child.wait()
    lines = [line for line in (out / f"{step.name}.log").read_text().splitlines() if line.strip()]
    return {
        "command": " ".join(["python", *command[2:]]),
        "seconds": round(time.monotonic() - begin, 1),
        "ended": ended if ended != "ended" or code == 0 else f"exit status {code}",
        "wrong": [line for line in lines if line.startswith(("WRONG", "FAILED", "ERROR"))],
        "not_tested": [line for line in lines if line.startswith("backend ") and " was not tested on " in line],
        "last_lines": lines[-LAST_LINES:],
        "gpu": gpu_state(),
    }


def gpu_state() -> str | None:
    """Whether heat or power held it back shows in its clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader", "--id=0"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else None


def propose_winners(folder: Path) -> list[str]:
    """Copies the autotuner's table to the name under which the package looks for one, and says how often which backend
    won."""
    lines = []
    for file in folder.glob("*_driver_*.json"):
        table = json.loads(file.read_text())
        proposal = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', table['device'])}.json"
        proposal.write_text(file.read_text())
        for function, entries in table["shapes"].items():
            won = [entry["backend"] for entry in entries.values()]
            counts = ", ".join(f"{backend} {won.count(backend)}" for backend in sorted(set(won)))
            lines.append(f"{proposal.name}, {function}: {counts or 'nothing tuned'}")
    return lines


def steps_known(record: Path, environment: dict[str, Any]) -> dict[str, Any]:
    """Those that earlier runs left in the folder, if it was on the same machine with the same versions."""
    if not record.exists():
        return {}
    known = json.loads(record.read_text())
    return known["steps"] if known["environment"] == json.loads(json.dumps(environment)) else {}


def text_of(record: dict[str, Any], machine: str) -> str:
    lines = [machine, ""]
    for name, found in record["steps"].items():
        lines.append(f"{name}: {found['ended']} after {found['seconds']} s; " + " | ".join(found["last_lines"][-1:]))
        lines += [f"  {line}" for line in (*found["wrong"], *found["not_tested"])]
    lines += [f"{name}: not run, no time left" for name in record["not_run"]]
    return "\n".join([*lines, "", *record["summary"], *record["winners"], ""])


def summary(out: Path) -> list[str]:
    if not (out / "latency.json").exists():
        return ["nothing was measured"]
    entries = json.loads((out / "latency.json").read_text())["benchmarks"]
    return [str(line) for line in summarise(latency_report.ratios(entries))]


def main(arguments: list[str] | None = None) -> int:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all together; default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu", metavar="FOLDER")
    names = [step.name for step in steps(ROOT)]
    parser.add_argument("--steps", help="only these, comma-separated, of " + ", ".join(names))
    parser.add_argument("--dry-run", action="store_true", help="try this script on the CPU")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    chosen = list((dry_steps if options.dry_run else steps)(out))
    if options.steps:
        names = options.steps.split(",")
        unknown = set(names) - {step.name for step in chosen}
        if unknown:
            parser.error(f"argument --steps: there is no step {', '.join(sorted(unknown))}")
        chosen = [step for step in chosen if step.name in names]
    found = environment()
    if not options.dry_run and "cuda:0" not in found["devices"]:
        parser.error("PyTorch sees no CUDA device here (--dry-run tries this script on the CPU)")

    out.mkdir(parents=True, exist_ok=True)
    variables = {"KERNELDNA_CACHE": str(out / "tuned"), "PYTHONUNBUFFERED": "1"}
    if options.dry_run:
        variables["TRITON_INTERPRET"] = "1"
    record: dict[str, Any] = {"dry_run": options.dry_run, "environment": found, "not_run": []}
    record["steps"] = steps_known(out / "record.json", found)
    machine = report()

    def write() -> None:
        record.update(summary=summary(out), winners=propose_winners(out / "tuned"))
        (out / "record.json").write_text(json.dumps(record, indent=1) + "\n")
        (out / "record.txt").write_text(text_of(record, machine))

    write()
    for step in chosen:
        left = started + 60 * options.minutes - LAST_SECONDS - time.monotonic()
        if left > 0:
            record["steps"][step.name] = run(step, out, step.share * left, variables)
            told = record["steps"][step.name]["ended"]
        else:
            record["not_run"].append(step.name)
            told = "not run"
        write()
        print(f"[{time.monotonic() - started:4.0f} s] {step.name}: {told}", flush=True)
    if (out / "latency.json").exists():
        latency_report.write(out)
    print((out / "record.txt").read_text())
    run_now = [record["steps"][step.name] for step in chosen if step.name in record["steps"]]
    return int(any(step["wrong"] or step["ended"].startswith("exit") for step in run_now))


if __name__ == "__main__":
    sys.exit(main())
