"""Two processes do what one does; torchrun starts them once for all tests (two_processes.py)."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kerneldna_ops.models import create_model
from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.training import distributed, fsdp, lock
from support import tiny, two_processes

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder with what the processes found, then the return code and stderr of torchrun, as one of them failed."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    command += ["-m", two_processes.__name__, str(folder)]
    process = subprocess.Popen(command, cwd=TESTS, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=100)
    finally:
        process.terminate()  # torchrun ends its processes then, which it could not if it were killed
    assert len(list(folder.glob("*.pt"))) == 2, errors[-3000:]
    return folder, process.returncode, errors


@pytest.fixture(scope="module")
def ranks(ended):
    return [torch.load(ended[0] / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """(state of the model, of its optimizer) after the same steps in this process."""
    model = two_processes.network()
    optimizer = two_processes.train(model, lambda batch: batch)
    return model.state_dict(), optimizer.state_dict()


def assert_same_training(found, alone):
    state, optimizer = alone
    assert list(found["state"]) == list(state)
    torch.testing.assert_close(found["state"], state, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["optimizer"]["state"], optimizer["state"], rtol=0, atol=1e-5)
    assert found["optimizer"]["param_groups"] == optimizer["param_groups"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(ranks, alone, kind):
    before = two_processes.network().state_dict()
    moved = [name for name, value in alone[0].items() if not torch.allclose(value, before[name], rtol=0, atol=1e-4)]
    assert len(moved) > 30  # the comparison is of something that training changes
    assert_same_training(ranks[0][kind], alone)


def test_both_processes_hold_the_same_parameters(ranks):
    first, second = (rank["ddp"]["own parameters"] for rank in ranks)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(ranks[0]["fsdp"]["state"], ranks[1]["fsdp"]["state"], rtol=0, atol=0)


def test_a_shared_kernel_is_synchronised_once(ranks):
    parameters = sum(parameter.numel() for parameter in two_processes.network().parameters())
    reduced = ranks[0]["ddp"]["elements reduced"]
    assert sum(reduced) == two_processes.STEPS * parameters


def test_fsdp_shards_every_parameter(ranks):
    parent = two_processes.network().blocks[0].parent.weight
    assert all(rank["fsdp"]["all sharded"] for rank in ranks)
    assert [rank["fsdp"]["share of the parent"] for rank in ranks] == [parent.numel() // 2] * 2


def test_fsdp_loads_a_whole_state(ranks, alone):
    trained = two_processes.network()
    trained.load_state_dict(alone[0])
    other = two_processes.network(seed=7)
    for found in (rank["fsdp"] for rank in ranks):
        torch.testing.assert_close(found["optimizer again"], found["optimizer"], rtol=0, atol=0)
        torch.testing.assert_close(found["scores"], two_processes.scores(trained.eval()), rtol=0, atol=1e-5)
        expected = two_processes.scores(other.eval())
        torch.testing.assert_close(found["scores of another state"], expected, rtol=0, atol=1e-5)
        assert "size mismatch for head.weight" in found["refusal"]


def test_training_with_an_average_is_the_same_in_both_ways(ranks):
    ways = ranks[0]["learnt"]
    for state, again in ways.values():
        assert state["average"]["updates"] == 2
        torch.testing.assert_close(again["model"], state["model"], rtol=0, atol=0)
        torch.testing.assert_close(again["average"]["model"], state["average"]["model"], rtol=0, atol=0)
        torch.testing.assert_close(again["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
    (ddp, _), (fsdp, _) = ways["ddp"], ways["fsdp"]
    torch.testing.assert_close(fsdp["model"], ddp["model"], rtol=0, atol=1e-6)
    torch.testing.assert_close(fsdp["average"]["model"], ddp["average"]["model"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", two_processes.WITH_A_NORM_INSIDE)
def test_a_synchronised_norm_in_a_layer_takes_one_sample_of_each_process(ranks, name):
    make, parameter = two_processes.WITH_A_NORM_INSIDE[name]
    torch.manual_seed(3)
    layer = make()
    output = layer(torch.randn(2, two_processes.CHANNELS, 5, 4))
    output.square().sum().backward()
    for rank in ranks:
        own, gradient = rank["one sample each"][name]
        torch.testing.assert_close(own, output[rank["rank"] :: 2].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, layer.get_parameter(parameter).grad, rtol=1e-4, atol=1e-4)


def test_what_processes_say_to_each_other(ranks):
    assert [rank["rank"] for rank in ranks] == [0, 1]
    for rank in ranks:
        assert rank["world_size"] == 2
        assert rank["sum"].tolist() == [2, 1]
        assert rank["from first"] == {"rank": 0}
        assert rank["buffers"].tolist() == [0, 0]
    assert [rank["share"].tolist() for rank in ranks] == [[0, 2, 4], [1, 3]]


def test_two_processes_evaluate_as_one(ranks):
    expected = two_processes.evaluated(distributed.Processes())
    assert 0 < expected[7, 3]["top1"] < 100
    for rank in ranks:
        for count, scores in expected.items():
            assert rank["scores"][count] == {**scores, "loss": pytest.approx(scores["loss"], rel=1e-6)}


def test_a_training_of_two_processes_locks_its_folder_once(ranks, ended):
    assert [rank["epochs"] for rank in ranks] == [tiny.RECIPE.epochs] * 2
    assert {path.name for path in (ended[0] / "training").iterdir()} >= {"last.pt", "best.pt", "steps.csv"}
    assert not (ended[0] / "training" / lock.NAME).exists()


def test_batchnorm_is_not_synchronised_on_cpu(ranks):
    assert ranks[1]["sync_batchnorm"] == "sync_batchnorm: expected CUDA devices, got cpu"


def test_one_leaves_cleanly_and_an_error_of_the_other_ends_both(ended):
    folder, returncode, errors = ended
    assert (folder / "left").exists()
    assert returncode == 1
    assert "ArithmeticError: the second process fails" in errors
    assert f"exitcode  : -{signal.SIGTERM.value}" in errors  # the first one, which slept


def test_synchronised_batchnorm_is_the_same_network_in_eval_mode():
    model = two_processes.network().eval()
    expected, names = two_processes.scores(model), list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert list(converted.state_dict()) == names
    torch.testing.assert_close(two_processes.scores(converted), expected)


class Stages(nn.Module):
    """Blocks in a Sequential, or in a ModuleList, which nobody calls as a whole."""

    def __init__(self, kind, *blocks):
        super().__init__()
        self.blocks = kind(*blocks) if kind is nn.Sequential else kind(blocks)

    def forward(self, x):
        raise NotImplementedError


def block():
    parent = nn.Conv2d(4, 4, 1)
    return nn.Sequential(parent, ChildConv2d(parent))


def test_fsdp_units_are_the_smallest_modules_around_a_parent_and_its_children():
    assert fsdp.units(create_model("kerneldna_resnet18")) == ["layer3", "layer3.2", "layer4", "layer4.2"]
    assert fsdp.units(nn.Sequential(nn.Conv2d(4, 4, 1))) == []
    assert fsdp.units(two_processes.network()) == ["blocks.0", "blocks.1"]
    assert fsdp.units(block()) == []  # the model itself is the unit


@pytest.mark.parametrize(("kind", "units"), [(nn.Sequential, ["blocks", "blocks.0"]), (nn.ModuleList, ["blocks.0"])])
def test_fsdp_units_when_a_child_lies_in_another_block(kind, units):
    first = block()
    second = nn.Sequential(*block(), *block())
    third = nn.Sequential(ChildConv2d(second[0]))
    assert fsdp.units(Stages(kind, first, second, third)) == units  # not blocks.1: a child outside reads its parent


def test_fsdp_units_when_a_module_stands_in_two_places():
    tied = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Sequential(nn.Sequential(tied), nn.Sequential(tied)), nn.Conv2d(4, 4, 1))
    assert fsdp.units(model) == ["0"]


def test_fsdp_refuses_a_parent_outside_the_model():
    model = nn.Sequential(ChildConv2d(nn.Conv2d(4, 4, 1)))
    with pytest.raises(ValueError, match=r"^fsdp: the parent of 0 must be a part of the model to be sharded$"):
        fsdp.units(model)


def test_fsdp_refuses_several_dtypes():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1).bfloat16())
    with pytest.raises(ValueError, match=r"^fsdp: expected parameters of one dtype, got bfloat16 and float32$"):
        fsdp.shard(model, mesh=None)


def test_alone_nothing_is_wrapped():
    with distributed.setup() as processes:
        assert (processes.rank, processes.world_size, processes.first) == (0, 1, True)
        model = nn.Linear(2, 2)
        assert processes.wrap(model) is model
        assert processes.wrap(model, "fsdp", sync_batchnorm=True) is model
        assert processes.sum(torch.ones(2)).tolist() == [1, 1]
        assert processes.from_first("x") == "x"
        processes.barrier()


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({}, "gpu", "device: expected cpu or cuda, got 'gpu'"),
        ({}, "meta", "device: expected cpu or cuda, got 'meta'"),
        ({"LOCAL_RANK": "1"}, "cuda:0", "device: expected cpu or cuda, got 'cuda:0'"),
        ({}, "cuda:99", f"device: expected at least 100 CUDA devices, found {torch.cuda.device_count()}"),
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            "cpu",
            "WORLD_SIZE is set, so expected all that torchrun sets, got no LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
        ),
    ],
)
def test_what_setup_refuses(monkeypatch, environment, device, message):
    for name in distributed.TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as error, distributed.setup(device):  # noqa: PT011  the whole message is compared
        pass
    assert str(error.value) == message


def test_what_cannot_be_shared_or_wrapped():
    processes = distributed.Processes(rank=1, world_size=2)
    assert processes.share_of(8) == 4
    with pytest.raises(ValueError, match=r"^batch_size: expected a multiple of the 2 processes, got 9$"):
        processes.share_of(9)
    with pytest.raises(ValueError, match=r"^kind: expected one of ddp, fsdp, got 'zero'$"):
        processes.wrap(nn.Linear(2, 2), "zero")
