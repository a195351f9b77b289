"""Measures which backend wins each class of calls and rewrites the table that the automatic choice follows.

    python -m benchmarks.winners                                            (everything: 5 minutes on an idle machine)
    python -m benchmarks.winners --dtypes float32 --kinds dense,pointwise

Only the classes asked for are replaced, each as soon as it is measured, so a broken-off run keeps what it has. A class
is measured on several shapes and batch sizes, forward and training, with c per sample and f and s both static or both
per sample. The choice cannot know whether a backward follows, so one backend wins all of it: composite where the native
kernel takes more than 3 % longer in the geometric mean, else the native one."""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import product
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor

from kerneldna_ops.backends import _winners
from kerneldna_ops.backends._winners import AXES, NATIVE, Winner
from kerneldna_ops.call import Call
from kerneldna_ops.measure.time import Timed, alternate, wall_sample

from .candidates import Candidate, op
from .cases import DTYPES, MODES, Case, Shape, make_operands
from .measure import TOLERANCE, prepare
from .options import listed, one_of
from .process import KEEP_MEMORY, description, restart_with

SHAPES = {
    "dense": ("64@56", "128@28", "64@56s2", "256@14", "512@7", "128@28s2"),
    "pointwise": ("64->256@56", "256->1024@14", "1024->256@14", "96->576@14"),
    "depthwise": ("96@56dw", "144@56s2dw", "576@14dw", "960@7dw"),
    "grouped": ("128@28g32", "64@56g2", "256@14g8"),
}
BATCHES = (1, 8)
CANDIDATES = (NATIVE, "composite")
COMPOSITE_WINS_ABOVE = 1.03
SAMPLE_SECONDS = 0.005
# Calls so long, and so far apart, that more of them would not change the winner.
LONG_SECONDS, FAR_APART = 0.1, 2.0


def answer_by_composite() -> None:
    """In this process composite answers every call that the C++ library hands to Python."""
    table = _winners.table("cpu")
    table.clear()
    table.update(dict.fromkeys(range(_winners.CLASSES), Winner("composite", "being measured")))


def candidate(name: str) -> Candidate:
    """The op as the automatic choice runs it where this backend wins: the native one without Python in the way."""
    classes = [] if name == NATIVE else list(range(_winners.CLASSES))
    select_in_python = torch.ops.kerneldna._select_in_python.default

    def run(call: Call) -> Tensor:
        select_in_python(classes)
        return op(call)

    return Candidate(name, run)


def check_agreement(calls: dict[str, Timed], dtype: str) -> None:
    for native, composite in zip(calls[NATIVE](), calls["composite"](), strict=True):
        error = (native - composite).abs().max() / composite.abs().max()
        assert error <= TOLERANCE[dtype], f"the two backends differ by {error:.1e} of the range"


def measure(calls: dict[str, Timed], rounds: int) -> tuple[float, bool]:
    """The native backend's time relative to composite's, and whether nobody disturbed. The calls have run before."""
    once = {name: wall_sample(call) for name, call in calls.items()}
    seconds = {name: spent for name, (spent, _) in once.items()}
    if max(seconds.values()) > max(LONG_SECONDS, FAR_APART * min(seconds.values())):
        return seconds[NATIVE] / seconds["composite"], all(undisturbed for _, undisturbed in once.values())
    measured = alternate(calls, rounds, SAMPLE_SECONDS)
    return measured.ratio(NATIVE, "composite").median, measured.undisturbed


def cases(of: dict[str, str]) -> Iterator[Case]:
    """What stands for a class."""
    for name, batch, mode in product(SHAPES[of["kind"]], BATCHES, MODES):
        shape = Shape.parse(name)
        if _is_of(shape, of):
            yield Case(shape, batch, of["layout"], mode, of["dtype"])


def _is_of(shape: Shape, of: dict[str, str]) -> bool:
    input, weight = (1, shape.in_channels, shape.size, shape.size), (shape.out_channels, 1, shape.kernel, shape.kernel)
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    of_call = DTYPES[of["dtype"]], of["spatial"] == "per_sample", of["layout"] == "channels_last"
    number = torch.ops.kerneldna._conv_class(input, weight, stride, padding, (1, 1), shape.groups, *of_call)
    return bool(number == _winners.class_number(of))


def measure_class(of: dict[str, str], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    ratios: dict[str, list[float]] = {mode: [] for mode in MODES}
    disturbed = 0
    for case in cases(of):
        operands = make_operands(case, of["spatial"] == "static")
        calls = {name: prepare(candidate(name), operands, case.mode) for name in CANDIDATES}
        check_agreement(calls, of["dtype"])
        ratio, undisturbed = measure(calls, rounds)
        ratios[case.mode].append(ratio)
        disturbed += not undisturbed
    return row(of, ratios, disturbed)


def row(of: dict[str, str], ratios: dict[str, list[float]], disturbed: int) -> dict[str, Any]:
    """Ratios are native to composite: by mode, of all, and the extremes among the cases."""
    every = [ratio for mode in MODES for ratio in ratios[mode]]
    mean = geometric_mean(every)
    figures = {mode: geometric_mean(ratios[mode]) for mode in MODES}
    figures |= {"ratio": mean, "lowest": min(every), "highest": max(every)}
    return {
        **of,
        **{name: round(value, 3) for name, value in figures.items()},
        "cases": len(every),
        "disturbed": disturbed,
        "winner": "composite" if mean > COMPOSITE_WINS_ABOVE else NATIVE,
    }


def replaced(table: dict[str, Any], how: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The table with this row, measured so, in place of the one of its class."""
    measurements = [
        {"how": old["how"], "rows": [r for r in old["rows"] if _winners.class_number(r) != _winners.class_number(new)]}
        for old in table["measurements"]
    ]
    same = next((old for old in measurements if old["how"] == how), None)
    if same is None:
        same = {"how": how, "rows": []}
        measurements.append(same)
    order = list(_winners.classes())
    same["rows"] = sorted([*same["rows"], new], key=lambda row: order.index({axis: row[axis] for axis in AXES}))
    return {"measurements": [measurement for measurement in measurements if measurement["rows"]]}


def text(table: dict[str, Any]) -> str:
    """JSON with one line for each row."""
    parts = []
    for measurement in table["measurements"]:
        rows = ",\n    ".join(json.dumps(row) for row in measurement["rows"])
        parts.append(f'  {{"how": {json.dumps(measurement["how"])},\n   "rows": [\n    {rows}\n  ]}}')
    return '{"measurements": [\n' + ",\n".join(parts) + "\n]}\n"


def main() -> None:
    restart_with(KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for axis in ("dtype", "kind"):
        values = AXES[axis]
        parser.add_argument(f"--{axis}s", type=listed(one_of(values)), default=values, help="of " + ", ".join(values))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    file = _winners.file_of_the_cpu()
    table = json.loads(file.read_text()) if file.exists() else {"measurements": []}
    how = {name: value for name, value in description().items() if name != "package"} | {"rounds": options.rounds}
    print(", ".join(f"{name}: {value}" for name, value in how.items()))
    print("native to composite:  forward training   both  [lowest, highest]")
    answer_by_composite()
    asked = [of for of in _winners.classes() if of["dtype"] in options.dtypes and of["kind"] in options.kinds]
    for count, of in enumerate(asked, 1):
        start = time.perf_counter()
        new = measure_class(of, options.rounds)
        table = replaced(table, how, new)
        file.write_text(text(table))
        figures = "{forward:8.3f} {training:8.3f} {ratio:6.3f}  [{lowest:.3f}, {highest:.3f}]".format(**new)
        note = f", {new['disturbed']} of {new['cases']} cases DISTURBED" if new["disturbed"] else ""
        label = " ".join(of.values())
        seconds = time.perf_counter() - start
        print(f"{count:3}/{len(asked)} {label:48} {figures} {new['winner']:9} {seconds:5.1f} s{note}", flush=True)
    print(file)


if __name__ == "__main__":
    main()
