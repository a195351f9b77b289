"""Ways to export a module, each as a function of the module and an example that returns what the export computes.

What is exported serves any batch and image size, in PyTorch's or ONNX's own operators.
"""

import contextlib
import io
import warnings

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


def _session(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (input,) = session.get_inputs()

    def run(x):
        outputs = [torch.from_numpy(output) for output in session.run(None, {input.name: x.numpy()})]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return run


EXPORTERS = (decomposed, traced, traced_without_gradients, onnx_of_a_program, onnx_of_a_trace)
