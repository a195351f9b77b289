"""benchmarks/gpu_check without a GPU: a dry run of all of it, and that it stops at a wrong result.

Modules that import the Triton kernels are imported by the tests, not here: how kernels are defined is decided at their
first import, and tests/triton_kernels/ wants them interpreted.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu_check import checkout, profile, sanitizer, targets, winners
from benchmarks.gpu_check.record import Record
from kerneldna_ops.backends import cuda_host
from tolerance import Truth

# What a dry run has of the library's CUDA kernels: their source, where `make host-kernels` has built it.
CUDA_KERNELS = ["cuda_host"] if cuda_host.runs_on(torch.empty(0))[0] else []

# Runs the script with the output of Triton's every convolution, and the CUDA kernels' every gate, off in one place.
WITH_A_WRONG_KERNEL = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
from benchmarks.gpu_check import checkout
checkout.ready()
from kerneldna_ops.triton_kernels import conv_forward
right = conv_forward.forward
def wrong(*args, **named):
    result = right(*args, **named)
    result.y.view(-1)[-1] += 0.5
    return result
conv_forward.forward = wrong
from kerneldna_ops.backends import cuda_host
right_gate = cuda_host.squeeze_excite
def wrong_gate(*args):
    gate = right_gate(*args)
    gate.view(-1)[-1] += 0.5
    return gate
cuda_host.squeeze_excite = wrong_gate
from benchmarks.gpu_check.__main__ import main
sys.exit(main(sys.argv[1:]))
"""

# Compiles a kernel as the workers do, then asks for the one that a call with tensors in memory needs.
COMPILED_AHEAD = """
import os, sys
from pathlib import Path
from benchmarks.gpu_check import checkout
checkout.ready()
import torch
from benchmarks.gpu_check import warm
from benchmarks.gpu_check.machine import Machine
from kerneldna_ops.triton_kernels.launch import recording
from kerneldna_ops.triton_kernels.squeeze_excite import squeeze_excite
machine = Machine(False, torch.device("cpu"), "NVIDIA H200", 90, 132, 60 << 20)
shapes = (8, 64, 7, 7), (16, 64), (16,), (64, 16), (64,)
def call(device):
    squeeze_excite(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
warm.thunks = lambda machine: [("bf16", lambda: call("meta"))]
((number, job),) = warm.jobs(machine)
assert warm.compile_one(machine, (number, job)) is None
files = lambda: sum(1 for _ in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin"))
print(files())
with recording() as launches:
    call("cpu")
for launch in launches:
    launch.kernel.device_caches.clear()
    launch.kernel.warmup(grid=launch.grid, enable_fp_fusion=True, **launch.args, **launch.options)
print(files())
"""


def run(*command, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=checkout.ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu_check")
    ran = run("-m", "benchmarks.gpu_check", "--dry-run", "--out", str(folder), "--commit", "abc123")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return SimpleNamespace(output=ran.stdout, data=json.loads((folder / "dry_run.json").read_text()), folder=folder)


def test_a_dry_run_leaves_all_that_a_report_needs(dry_run):
    data = dry_run.data
    assert data["complete"]
    assert data["wrong"] == []
    assert data["not_run"] == []
    assert data["environment"]["commit"] == "abc123"
    assert {"device", "gpu", "torch", "triton", "cuda", "cudnn", "nvcc", "python"} <= set(data["environment"])
    assert set(data["ceilings"]) == {"copy_tb_per_s", "matmul_tflop_per_s"}
    assert data["compiled"]["kernels"] > 50
    assert data["checks"]["compared"] > 20
    for said in data["checks"]["in_torch"].values():
        assert said["opcheck"] == said["compiled"] == "right"
    assert set(data["checks"]["in_torch"]) == {"triton", *CUDA_KERNELS}
    assert data["environment"]["cuda_kernels"] == cuda_host.runs_on(torch.empty(0))[1]
    assert data["sanitizer"] == {"all": "not done: dry run"}


def test_every_section_is_timed_with_its_rivals(dry_run):
    candidates = {}
    for row in dry_run.data["rows"]:
        assert "error" not in row, row
        assert "us" in row or "bytes" in row
        candidates.setdefault((row["section"], row["mode"]), set()).add(row["candidate"])
    rivals = {"static", "composite c", "composite cfs", "grouped cfs", "op c", "op cfs"}
    for section in ("forward 3x3", "forward 1x1", "depthwise", "launch overhead", "peak memory"):
        assert rivals <= candidates[section, "forward"]
    for section in ("training 3x3", "depthwise training", "peak memory"):
        assert rivals <= candidates[section, "training"]
    assert {"static dx", "static dW", "static dx dW", "composite cfs", "dx cfs"} <= candidates[
        "backward parts", "backward"
    ]
    assert candidates["squeeze-excite", "inference"] == {"eager", "triton", *CUDA_KERNELS}
    assert candidates["squeeze-excite", "training"] == {"eager", "triton"}
    assert {name.split()[0] for name in candidates["forward 3x3", "forward"]} >= {"P", "S", "M", "X", *CUDA_KERNELS}
    for section, mode in (("training 3x3", "training"), ("backward parts", "backward"), ("launch overhead", "forward")):
        assert {f"{name} cfs" for name in CUDA_KERNELS} <= candidates[section, mode]
    for mode in ("forward", "on the CPU"):
        rivals = {"static, linear gate", "static, 1x1 gate", "composite, linear gate"}
        assert candidates["child layer", mode] >= {*rivals, "op", "triton", *CUDA_KERNELS}


def test_predictions_stand_beside_measured_times(dry_run):
    ways = [row for row in dry_run.data["rows"] if row.get("function") == "conv" and row["section"] == "forward 3x3"]
    assert ways
    assert all(row["predicted_us"] > 0 and row["us"] > 0 for row in ways if row["backend"] == "triton")


def test_a_dry_run_is_labelled_and_judges_no_target(dry_run):
    assert "no measurement" in dry_run.output
    assert {entry["state"] for entry in dry_run.data["targets"]} == {"not measured"}


def test_the_proposed_winners_are_a_table_that_the_tuner_reads(dry_run):
    from kerneldna_ops.backends import _tuned

    file = dry_run.folder / "dry_run.tuned.json"
    for function in _tuned.FUNCTIONS:
        entries = _tuned._read(file, function)
        assert entries
        assert all(entry.backend in ("triton", "composite") and entry.milliseconds for entry in entries.values())


def test_a_wrong_kernel_stops_the_run(tmp_path):
    ran = run("-c", WITH_A_WRONG_KERNEL, "--dry-run", "--out", str(tmp_path))
    assert ran.returncode == 1, ran.stderr[-2000:]
    lines = [line for line in ran.stdout.splitlines() if line.startswith("WRONG RESULT: ")]
    gates = [
        line for line in lines if "squeeze-excite inference by cuda_host" in line and "gate result 0: off by" in line
    ]
    assert len(gates) == 2 * len(CUDA_KERNELS)  # a dry run checks two dtypes
    convolutions = [line for line in lines if line not in gates]
    assert all("kernel_3x3 fp16" in line and "output: off by" in line for line in convolutions)
    assert {line.split()[2] for line in convolutions} == {"P", "the"}  # the kernel, and the op which has it
    assert "nothing was timed" in ran.stdout
    data = json.loads((tmp_path / "dry_run.json").read_text())
    assert len(data["wrong"]) == len(lines)
    assert data["rows"] == []
    assert not data["complete"]


def test_what_is_compiled_ahead_is_what_a_call_needs(tmp_path):
    ran = run("-c", COMPILED_AHEAD, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert ran.stdout.split() == ["1", "1"], ran.stderr[-2000:]


def wrong_of(call):
    from benchmarks.cases import Shape
    from benchmarks.gpu_check.cells import Candidate, Cell, operands
    from benchmarks.gpu_check.measure import _wrong

    cell = Cell("forward 3x3", "forward", Shape.parse("8@3"), 2, "fp32")
    examples = {"cfs": operands(cell, torch.device("cpu"))}
    return _wrong(cell, {"candidate": Candidate(call, "cfs", check=True)}, examples)


def test_a_candidate_that_answers_wrongly_is_not_timed():
    assert wrong_of(lambda o: torch.zeros_like(o.grad_output))["candidate"].startswith("wrong: off by 1.0")
    assert wrong_of(lambda o: o.grad_output * torch.nan)["candidate"] == "wrong: off by nan of the norm"


def test_a_candidate_that_raises_is_not_timed():
    def call(o):
        raise RuntimeError("out of registers\nand a page of text")

    assert wrong_of(call) == {"candidate": "RuntimeError: out of registers"}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A function that runs these cells within so many seconds and returns the record."""
    from benchmarks.gpu_check import sections

    def run(jobs, seconds):
        monkeypatch.setattr(sections, "_jobs", lambda machine: [("forward 3x3", jobs)])
        record = Record(tmp_path / "result.json", seconds, time.monotonic())
        sections.measure_all(None, record, 0)
        return json.loads((tmp_path / "result.json").read_text())

    return run


def test_a_failing_cell_does_not_end_the_run(measured):
    def fails():
        raise RuntimeError("no such algorithm")

    good = {"section": "forward 3x3", "us": 1.0}
    data = measured([("bad", fails), ("good", lambda: ([good], []))], 1000)
    assert data["rows"] == [good]
    assert data["not_run"] == [{"what": "bad", "why": "RuntimeError: no such algorithm"}]


def test_what_there_was_no_time_for_is_listed(measured):
    data = measured([("late", lambda: ([], []))], 0)
    assert data["not_run"] == [{"what": "late", "why": "no time left"}]


class FakeGraph:
    """A graph of a device where every replay takes 6 ms. `log` is of all graphs."""

    def __init__(self, log):
        self._log = log
        self.name = None

    def capture_begin(self, pool, capture_error_mode):
        self._log.append("begin")

    def capture_end(self):
        self.name = self._log[-1]
        self._log.append("end")

    def replay(self):
        self._log.append(f"replay {self.name}")


@pytest.fixture
def fake_cuda(monkeypatch):
    """What timing.py asks of torch.cuda; returns the log."""
    log = []
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 6.0)
    fakes = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: FakeGraph(log),
        "Event": lambda enable_timing: event,
        "graph_pool_handle": lambda: None,
        "empty_cache": lambda: None,
        "_sleep": lambda clocks: log.append("busy"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return log


def test_graphs_take_turns(fake_cuda):
    from benchmarks.gpu_check import timing
    from benchmarks.gpu_check.machine import Machine

    machine = Machine(False, torch.device("cpu"), "fake", 90, 132, 1)

    def call(name):
        fake_cuda.append(name)

    def fails():
        if fake_cuda.count("begin") > fake_cuda.count("end"):
            raise RuntimeError("not permitted while a graph is captured")

    calls = {name: [partial(call, f"{name}{i}") for i in range(3)] for name in "ab"}
    timed = timing.in_turn(machine, {"a": calls["a"], "fails": [fails], "b": calls["b"]})
    assert timed.errors == {"fails": "RuntimeError: not permitted while a graph is captured"}
    assert {name: time.median for name, time in timed.seconds.items()} == {"a": 0.002, "b": 0.002}
    assert fake_cuda.count("begin") == fake_cuda.count("end") == 3
    captured = fake_cuda[fake_cuda.index("begin") : fake_cuda.index("end")]
    assert captured == ["begin", "a0", "a1", "a2"]
    rounds = [entry for entry in fake_cuda if entry.startswith("replay")][4:]  # each graph ran twice before
    assert rounds[:4] == ["replay a2", "replay b2", "replay b2", "replay a2"]
    assert len(rounds) == 2 * timing.ROUNDS
    assert all(fake_cuda[i - 1] == "busy" for i, entry in enumerate(fake_cuda) if entry.startswith("replay"))


WRONG_ANSWERS = {
    "another result the second time": "a second run gives another output",
    "nothing": "a result is missing",
    "off": "output: off by 1 in",
    "not written": "output: off by nan",
    "raises": "does not run, RuntimeError: too many registers",
}


@pytest.mark.parametrize("answer", WRONG_ANSWERS)
def test_what_is_wrong_is_said(answer):
    from benchmarks.gpu_check.comparison import Wrong, compare

    right = torch.linspace(1, 2, 6)
    count = itertools.count()

    def run():
        if answer == "raises":
            raise RuntimeError("too many registers")
        return {
            "another result the second time": [right + 1e-6 * next(count) * torch.arange(6)],
            "nothing": [None],
            "off": [right + 1],
            "not written": [right * torch.tensor([1, 1, torch.nan, 1, 1, 1])],
        }[answer]

    with pytest.raises(Wrong, match=WRONG_ANSWERS[answer]):
        compare("kernel", run, [Truth("output", right.double(), 2.0, 1)], [[right]])
    compare("kernel", lambda: [right.clone()], [Truth("output", right.double(), 2.0, 1)], [[right]])


def row(section, shape, candidate, us, **more):
    where = {"section": section, "mode": "forward", "shape": shape, "batch": 128, "precision": "bf16"}
    return {**where, "candidate": candidate, "attentions": candidate.split()[-1], "us": us, **more}


def test_targets_are_met_or_missed():
    rows = []
    for shape, op, best in (("64@56", 100.0, 99.0), ("512@7", 115.0, 90.0)):
        rows += [row("forward 3x3", shape, "static", 100.0), row("forward 3x3", shape, "op cfs", op)]
        rows += [
            row("forward 3x3", shape, "P cfs", best, options={"form": "P"}),
            row("forward 3x3", shape, "P none", 1.0),
        ]
        rows.append(row("forward 3x3", shape, "grouped cfs", 900.0))
    found = {entry["target"]: entry for entry in targets.judge(rows)}
    states = {target.split(":")[0]: [] for target in found}
    for target, entry in found.items():
        states[target.split(":")[0]].append(entry["state"])
    assert states["forward with c, f, s per sample"] == ["missed", "missed"]
    assert states["the same, the fastest configuration of each shape"] == ["met", "met"]
    assert found["forward with c, f, s per sample: none above 1.10x static"]["measured"]["512@7"] == 1.15
    assert found["at least 3x faster than per-sample grouped convolution, 10x at 512@7"]["state"] == "missed"
    assert found["1x1 forward with c, f, s per sample at most 1.05x static"]["state"] == "not measured"


def test_the_target_of_a_child_layer():
    def rows(**times):
        where = {"section": "child layer", "shape": "256@14", "batch": 1, "precision": "bf16", "attentions": "c"}
        return [
            {**where, "candidate": name.replace("_", ", "), "mode": mode, "us": us}
            for name, pair in times.items()
            for mode, us in zip(("forward", "on the CPU"), pair, strict=True)
        ]

    found = targets.judge(rows(static_linear=(10, 30), static_1x1=(8, 40), op=(9, 12), cuda=(6, 9.5)))
    states = {
        entry["target"]: (entry["state"], entry["measured"]) for entry in found if entry["state"] != "not measured"
    }
    assert states == {
        "child layer in inference: at most 1.00x static convolution and eager squeeze-excite": (
            "missed",
            {"256@14 b1": 1.125},
        ),
        "child layer in inference: its calls take the CPU under 10 us": ("missed", {"256@14 b1": 12}),
        "the same, the fastest of ours: at most 1.00x static convolution and eager squeeze-excite": (
            "met",
            {"256@14 b1": 0.75},
        ),
        "the same, the fastest of ours: its calls take the CPU under 10 us": ("met", {"256@14 b1": 9.5}),
    }


def test_what_the_sanitizer_says():
    good = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.verdict("memcheck", 0, good) == sanitizer.GOOD
    bad = (
        "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 16 bytes\n"
        "=========     at conv_gemm_kernel\n========= ERROR SUMMARY: 3 errors\n"
    )
    said = sanitizer.verdict("memcheck", 1, bad)
    assert sanitizer.is_wrong(said)
    assert "Invalid __global__ read of size 16 bytes; at conv_gemm_kernel; ERROR SUMMARY: 3 errors" in said
    assert sanitizer.verdict("memcheck", 0, bad) == said
    assert sanitizer.verdict("memcheck", 1, "no device") == "not done: no device"


def test_the_fastest_wins():
    about = {"device": "NVIDIA H200", "gpu": {"driver_version": "580"}, "triton": "3.6.0", "torch": "2.11"}
    way = {"function": "conv", "backend": "triton", "options": {"form": "P"}, "key": "some shape"}
    rows = [row("forward 3x3", "64@56", "composite cfs", 30.0), row("forward 3x3", "64@56", "P cfs", 20.0, **way)]
    rows.append(row("forward 3x3", "64@56", "S cfs", 25.0, **{**way, "options": {"form": "S"}}))
    shapes = winners.table(about, rows)["shapes"]
    assert shapes["conv"]["some shape"]["options"] == {"form": "P"}
    assert shapes["conv"]["some shape"]["milliseconds"] == {"composite": 0.03, "P cfs": 0.02, "S cfs": 0.025}
    rows.append(row("forward 3x3", "64@56", "cuda cfs", 15.0, **{**way, "options": {}, "backend": "cuda"}))
    shapes = winners.table(about, rows)["shapes"]
    assert (shapes["conv"]["some shape"]["backend"], shapes["conv"]["some shape"]["options"]) == ("cuda", {})
    rows[0]["us"] = 10.0
    assert winners.table(about, rows)["shapes"]["conv"]["some shape"]["backend"] == "composite"


def test_counters_are_read_behind_the_messages_of_the_profiler():
    output = (
        '==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
        '"0","conv_kernel","gpu__time_duration.sum","us","41.2"\n'
    )
    assert profile.parsed(output) == {"conv_kernel 0": {"gpu__time_duration.sum": "41.2 us"}}
    assert profile.parsed("==ERROR== ERR_NVGPUCTRPERM") == {}
