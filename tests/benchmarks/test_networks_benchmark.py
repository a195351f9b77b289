"""benchmarks/networks: the static twins are the published ones, nothing wrong is timed, and losses are told."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.devices import graphed
from benchmarks.networks import candidates, memory, table
from benchmarks.networks.candidates import NETWORKS
from kerneldna_ops.measure.networks import count_macs, count_parameters, forward
from kerneldna_ops.measure.time import Spread
from kerneldna_ops.nn import CondConv2d, ODConv2d

# Small tensors.
pytestmark = pytest.mark.usefixtures("threads")

PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "mobilenet_v2": (3_504_872, 0.3008),
    "mobilenet_v2_050": (1_968_680, 0.0971),
    "convnext_tiny": (28_589_128, 4.456),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_static_twins_are_as_large_as_published(name):
    parameters, giga_macs = PUBLISHED[name]
    with torch.device("meta"):
        network, x = NETWORKS[name][candidates.STATIC](), torch.empty(1, 3, 224, 224)
    assert count_parameters(network) == parameters
    assert count_macs(network, x) / 1e9 == pytest.approx(giga_macs, rel=5e-4)


def test_the_folded_twin_has_no_batch_norm_and_the_same_answers():
    networks = candidates.candidates("mobilenet_v2_050", "nchw")
    network, folded = networks[candidates.STATIC], networks[candidates.FOLDED]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = candidates.images(2, 64, "nchw")
    torch.testing.assert_close(forward(folded, x), forward(network, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_a_pair_is_checked_in_every_part_that_is_timed(named):
    networks = candidates.candidates("mobilenet_v2_050", "nchw", named)
    candidates.check(networks, candidates.images(4, 64, "nchw", named), named)
    assert set(networks) == {candidates.STATIC, candidates.FOLDED, candidates.KERNELDNA}
    assert not any(network.training for network in networks.values())


# The layer, how many there are, and the parameters of the network.
DYNAMIC = {
    "odconv4_resnet18": (ODConv2d, 16, 44_901_640),
    "condconv4_mobilenet_v2": (CondConv2d, 50, 8_904_584),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_layers_of_others_are_in_every_place_and_their_forms_agree(name):
    """In the forward; the measurement checks the gradients too before it times them."""
    layer, places, parameters = DYNAMIC[name]
    networks = candidates.candidates(name, "nchw")
    dynamic, grouped = networks[candidates.DYNAMIC], networks[candidates.GROUPED]
    assert count_parameters(dynamic) == count_parameters(grouped) == parameters
    assert sum(isinstance(module, layer) for module in grouped.modules()) == places
    x = candidates.images(2, 32, "nchw")
    torch.testing.assert_close(forward(grouped, x), forward(dynamic, x), rtol=1e-3, atol=1e-3)


def test_a_wrong_form_is_not_timed():
    networks = candidates.candidates("condconv4_mobilenet_v2", "nchw")
    x = candidates.images(4, 64, "nchw")
    candidates.check(networks, x)
    with torch.no_grad():
        networks[candidates.GROUPED].features[1].conv[0][0].weight.mul_(2)
    with pytest.raises(AssertionError, match="dynamic grouped, forward: off by"):
        candidates.check(networks, x)


class Classifier(nn.Module):
    """Scores from the mean of an image, times `factor()`."""

    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = nn.Linear(3, 1000), factor

    def forward(self, x):
        return self.linear(x.mean((2, 3))) * self.factor()


def test_a_wrong_network_is_not_timed():
    x = candidates.images(2, 8, "nchw")
    candidates.check({candidates.KERNELDNA: Classifier(lambda: 1)}, x)
    with pytest.raises(AssertionError, match="kerneldna, forward: off by"):
        candidates.check({candidates.KERNELDNA: Classifier(lambda: 1 + torch.is_inference_mode_enabled())}, x)
    calls = iter(range(9))
    with pytest.raises(AssertionError, match="kerneldna, training: off by"):
        candidates.check({candidates.KERNELDNA: Classifier(lambda: 1 + (next(calls) == 5))}, x)


def test_a_wrong_network_is_not_timed_in_half_precision_either():
    """Where plain PyTorch is off by its rounding, twice that is allowed and a tenth of the answer is not."""
    x = candidates.images(2, 8, "nchw", "bfloat16")
    candidates.check({candidates.KERNELDNA: Classifier(lambda: 1).bfloat16()}, x, "bfloat16")
    wrong = Classifier(lambda: 1 + 0.1 * torch.is_inference_mode_enabled()).bfloat16()
    with pytest.raises(AssertionError, match="kerneldna, forward: off by"):
        candidates.check({candidates.KERNELDNA: wrong}, x, "bfloat16")


def test_a_pass_on_a_gpu_is_captured_warm_and_replayed(monkeypatch):
    log = []

    class Stream:
        def wait_stream(self, other):
            log.append("wait")

    class Graph:
        def replay(self):
            log.append("replay")

    @contextlib.contextmanager
    def within(what):
        log.append("begin")
        yield
        log.append("end")

    fakes = {"Stream": Stream, "current_stream": Stream, "stream": within, "CUDAGraph": Graph, "graph": within}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    replay = graphed(lambda: log.append("call") or "answer")
    assert log == ["wait", "begin", "call", "call", "call", "end", "wait", "begin", "call", "end"]
    assert replay() == "answer"
    assert log[10:] == ["replay"]


def test_activations_count_what_convolutions_and_norms_put_out():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    assert memory.activations(network, torch.zeros(2, 3, 6, 6)) == 2 * (2 * 8 * 3 * 3) * 4


def test_the_table_tells_what_was_missed():
    def time(mode, per_mac):
        spread = Spread(per_mac, per_mac, per_mac)
        return table.Time("net", "nchw", mode, candidates.KERNELDNA, 7, 10**9, spread, spread, spread, True)

    machine = SimpleNamespace(threads=2, cpu="a CPU", torch="2", commit="abc").__dict__
    mebi = 2**20
    peaks = [
        table.Memory("net", "nchw", "forward", mebi, 2 * mebi, 4 * mebi, 3 * mebi + extra, 5 * mebi) for extra in (0, 1)
    ]
    text = table.markdown([time("forward", 1.02), time("training", 1.06)], peaks, machine, "Batch 8")
    forward, training, *peaks = [line for line in text.splitlines() if line.startswith(("| net |", "| net,"))]
    assert forward.endswith("| 1.02: met |")
    assert training.endswith("| 1.05: **missed** |")
    assert peaks == [
        f"| net | nchw | forward | 1.0 | 2.0 | 4.0 | 3.0 | 5.0 | 5.0 | {met} |" for met in ("met", "**missed**")
    ]


def test_weights_are_parameters_and_buffers():
    assert memory.weights("resnet18", candidates.STATIC) == (11_689_512 + 2 * 4_800) * 4 + 20 * 8
    assert memory.weights("resnet18", candidates.STATIC, "bfloat16") == (11_689_512 + 2 * 4_800) * 2 + 20 * 8
