"""What the analytic model says of the published shapes, to be held against measured times: predicted, not measured.

python -m benchmarks.compile_matrix.predictions
"""

import json
from typing import Any

from kerneldna_ops.triton_kernels.cost_model import DEVICES, Device, composite, rank, static
from kerneldna_ops.triton_kernels.forward_choice import candidates
from kerneldna_ops.triton_kernels.problem import Problem

from ..cases import PLAIN_SHAPES, POINTWISE_SHAPES, STRIDED_SHAPES, Shape
from .cells import tile_of
from .table import FOLDER

PATH = FOLDER / "predictions.json"
SHAPES = tuple(map(Shape.parse, (*PLAIN_SHAPES, *POINTWISE_SHAPES, *STRIDED_SHAPES)))
BATCHES = (1, 32, 128)
RIVALS = {"static": static, "composite": composite}


def problem_of(shape: Shape, batch: int) -> Problem:
    sizes = ((shape.kernel,) * 2, (shape.stride,) * 2, (shape.padding,) * 2)
    return Problem(batch, shape.in_channels, shape.out_channels, shape.size, shape.size, *sizes)


def prediction(device: Device, shape: Shape, batch: int) -> dict[str, Any]:
    """Microseconds, in bfloat16 with c and f per sample."""
    problem = problem_of(shape, batch)
    rivals = {name: round(model(problem, device), 1) for name, model in RIVALS.items()}
    ranked = rank(problem, candidates(problem, device), device)
    configs = {f"{entry.config.form} {tile_of(entry.config)}": round(entry.microseconds, 1) for entry in ranked}
    return {"device": device.name, "shape": shape.name, "batch": batch, **rivals, "configs": configs}


def dump() -> str:
    """JSON with a line for each device, shape and batch."""
    head = {
        "about": "microseconds, predicted by kerneldna_ops.triton_kernels.cost_model, not measured",
        "command": "python -m benchmarks.compile_matrix.predictions",
        "problem": "forward, bfloat16, channels_last, c and f per sample",
    }
    rows = (prediction(device, shape, batch) for device in DEVICES.values() for shape in SHAPES for batch in BATCHES)
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{json.dumps(head)[:-1]}, "predictions": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(dump())
    print(f"{PATH}: predicted, not measured")
