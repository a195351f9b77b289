"""Ways to export a module, each as a function of the module and an example that returns what the export computes.

What is exported serves any batch and image size, in PyTorch's or ONNX's own operators.
"""

import contextlib
import io
import warnings

import pytest
import torch
from torch.export import Dim

ANY_SIZE = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)


def decomposed(module, example):
    program = torch.export.export(module, (example,), dynamic_shapes=ANY_SIZE).run_decompositions()
    targets = [node.target for node in program.graph.nodes]
    assert {op.namespace for op in targets if isinstance(op, torch._ops.OpOverload)} == {"aten"}
    return program.module()


def traced(module, example):
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # of what a trace takes for a constant
        trace = torch.jit.trace(module, example)
    assert "kerneldna::" not in str(trace.inlined_graph)
    return trace


def traced_without_gradients(module, example):
    with torch.no_grad():
        return traced(module, example)


def onnx_of_a_program(module, example):
    exported = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=ANY_SIZE, verbose=False)
    assert {node.domain for node in exported.model.graph} == {""}
    file = io.BytesIO()
    exported.save(file)
    return _session(file)


def onnx_of_a_trace(module, example):
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module, (example,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": [0, 2, 3]}, verbose=False
        )
    return _session(file)


def openvino_of_a_program(module, example):
    openvino = pytest.importorskip("openvino")
    program = torch.export.export(module, (example,), dynamic_shapes=ANY_SIZE)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(openvino.convert_model(program), "CPU", exact)
    return lambda x: _as_returned([output.copy() for output in compiled(x.numpy()).values()])


def _session(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (input,) = session.get_inputs()

    return lambda x: _as_returned(session.run(None, {input.name: x.numpy()}))


def _as_returned(outputs):
    tensors = tuple(map(torch.from_numpy, outputs))
    return tensors[0] if len(tensors) == 1 else tensors


EXPORTERS = (decomposed, traced, traced_without_gradients, onnx_of_a_program, onnx_of_a_trace, openvino_of_a_program)


def assert_serves_every_size(export, module):
    """One file of a module that takes images of 4 channels, for every batch and size."""
    found = export(module, torch.randn(2, 4, 5, 6))
    for shape in ((2, 4, 5, 6), (1, 4, 7, 4), (5, 4, 3, 3)):
        x = torch.randn(shape)
        torch.testing.assert_close(found(x), module(x), rtol=1e-4, atol=1e-4)
