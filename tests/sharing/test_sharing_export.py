"""A network with shared kernels through torch.export as it is, and through ONNX as materialize makes it."""

import io

import pytest
import torch
from torch.export import Dim

from kerneldna_ops.sharing import materialize, share_kernels
from support.sharing_networks import build, disturb, output

BATCH = ({0: Dim.DYNAMIC},)


@pytest.fixture(scope="module")
def shared():
    """One child of each kind: with a gate alone, and with all attentions per sample."""
    torch.manual_seed(0)
    net = build(channels=4, blocks=2)
    disturb(share_kernels(net, {"blocks.0.conv2": ["blocks.0.conv1"]}, reduction=2))
    form = {"filter": "dynamic", "spatial": "dynamic"}
    disturb(share_kernels(net, {"blocks.1.conv1": ["blocks.1.conv2"]}, reduction=2, **form))
    return net.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 9, 8)


def test_torch_export_keeps_the_op(shared, images):
    program = torch.export.export(shared, (images[:2],), dynamic_shapes=BATCH)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    ops = [str(node.target) for node in loaded.graph.nodes if node.op == "call_function"]
    assert ops.count("kerneldna.conv.default") == 2
    torch.testing.assert_close(output(loaded.module(), images), output(shared, images))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_of_a_materialized_network(shared, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plain = materialize(shared)
    program = torch.onnx.export(plain, (images[:2],), dynamo=True, dynamic_shapes=BATCH, verbose=False)
    program.save(tmp_path / "net.onnx")
    assert {node.domain for node in program.model.graph} == {""}  # operators of ONNX itself, no functions
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), output(shared, images))
    assert output(shared, images).std() > 0.01
