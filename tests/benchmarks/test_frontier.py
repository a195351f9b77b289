"""benchmarks/frontier: the networks are what they are compared as, the report tells losses, a stopped run goes on."""

import gzip
import json
import struct

import pytest
import torch
import torch.nn.functional as F

from benchmarks.frontier import __main__ as command
from benchmarks.frontier import report
from benchmarks.frontier.networks import NETWORKS, build
from benchmarks.frontier.settings import FULL, SHORT, Run, Setting, runs
from benchmarks.frontier.train import Trained
from benchmarks.frontier.variants import STATIC, VARIANTS
from kerneldna_ops.measure.networks import Cost, count_macs, count_parameters
from kerneldna_ops.measure.time import Spread
from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.training.learner import Learner

# Small tensors.
pytestmark = pytest.mark.usefixtures("threads")


def make(network, variant, steps=10):
    return build(network, variant, 0, 10, steps)


@pytest.mark.parametrize("network", NETWORKS)
def test_sharing_saves_parameters_and_costs_few_multiplications(network):
    x = torch.zeros(1, 1, 28, 28)
    parameters, macs = (
        {name: count(make(network, name)) for name in VARIANTS if "narrow" in name or name in (STATIC, *report.OURS)}
        for count in (count_parameters, lambda model: count_macs(model, x))
    )
    for ours in report.OURS:
        assert parameters[ours] < 0.75 * parameters[STATIC]
        assert parameters[ours] == pytest.approx(parameters["static-narrow"], rel=0.1)
        assert macs[STATIC] < macs[ours] < 1.02 * macs[STATIC]


@pytest.mark.parametrize(("network", "kernel", "children"), [("resnet", 3, 6), ("mobilenet", 1, 8)])
def test_children_modulate_what_they_should(network, kernel, children):
    for variant, attention in (("kerneldna", "static"), ("kerneldna-dynamic", "dynamic")):
        found = [module for module in make(network, variant).modules() if isinstance(module, ChildConv2d)]
        assert len(found) == children
        for child in found:
            assert child.kernel_size == (kernel, kernel)
            assert child.adapter.filter == attention
            assert child.adapter.spatial == (attention if kernel > 1 else None)
    assert not any(isinstance(module, ChildConv2d) for module in make(network, STATIC).modules())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_learns(network, variant):
    model = make(network, variant)
    x, labels = torch.randn(4, 1, 28, 28), torch.arange(4)
    scores = model(x)
    assert scores.shape == (4, 10)
    # It raises where a parameter has no part in the scores.
    gradients = torch.autograd.grad(F.cross_entropy(scores, labels), list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def first_attention(model):
    return next(module.attention for module in model.modules() if hasattr(module, "attention"))


@pytest.mark.parametrize("variant", ["odconv", "kernelwarehouse"])
def test_temperatures_come_down_in_the_first_steps(variant):
    x = torch.randn(2, 1, 28, 28)
    model = make("resnet", variant, steps=10)
    attention, seen = first_attention(model), []
    for _ in range(4):
        model(x)
        seen.append(attention.temperature)
    start, end = (30, 1) if variant == "odconv" else (1, 0)
    assert seen[0] == start > seen[1] > seen[2] == seen[3] == end


def test_temperatures_go_on_where_they_were_and_stay_in_eval_mode():
    x = torch.randn(2, 1, 28, 28)
    model, later = (make("resnet", "odconv", steps=20) for _ in range(2))
    model(x)
    later.load_state_dict(model.state_dict())
    attention, other = first_attention(model), first_attention(later)
    later.eval()(x)
    assert other.temperature == attention.temperature == 30
    later.train()(x)
    assert 30 > other.temperature > 1


def test_the_same_seed_gives_the_same_network():
    first, second, other = (build("resnet", "kerneldna", seed, 10, 1).classifier.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_runs_are_seed_by_seed_and_the_short_form_is_shorter():
    full = runs(FULL)
    assert len(full) == len(set(full)) == len(NETWORKS) * len(VARIANTS) * 3
    assert [run.seed for run in full] == sorted(run.seed for run in full)
    assert len(runs(SHORT)) == len(full) // 3
    assert SHORT.epochs * SHORT.images < FULL.epochs * 60_000 / 5


def spread(median):
    return Spread(0.9 * median, median, 1.1 * median)


def made_up(variant, accuracies, parameters, forward, training):
    cost = Cost(parameters, 10**6, spread(0.01), spread(forward), spread(0.03), spread(training), True)
    return report.Row("resnet", variant, accuracies, cost)


ABOUT = {
    "name": "full",
    "epochs": 4,
    "seeds": 2,
    "train": 60_000,
    "test": 10_000,
    "machine_info": {"cpu": "a CPU", "torch": "2", "commit": "abc"},
}


def test_the_table_and_what_it_says_of_losses():
    rows = [
        made_up(STATIC, [90.0, 91.0], 2000, 1.0, 1.0),
        made_up("static-narrow", [90.0, 90.0], 900, 0.7, 0.7),
        made_up("kerneldna", [90.2, 90.4], 1000, 1.2, 0.9),
        made_up("se", [91.0, 91.0], 2100, 1.1, 1.4),
    ]
    text = report.markdown(rows, ABOUT)
    assert "| static | 90.50 ± 0.71 | 2,000 | 1.00 | 10.0 | 1 | 30.0 | 1 |" in text
    assert "| KernelDNA, published | 90.30 ± 0.14 | 1,000 |" in text
    assert "| 1.20 [1.08, 1.32] |" in text
    lost = list(report.losses(rows))
    assert "static (+0.20 points, 0.83 times), SE (+0.70 points, 0.92 times)." in next(
        sentence for sentence in lost if "forward time" in sentence
    )
    assert not any("parameters" in sentence or "training time" in sentence for sentence in lost)


def test_rows_take_the_seeds_in_order():
    done = [Trained(Run("resnet", "se", seed), 90.0 + seed, 1.0) for seed in (2, 0, 1)]
    done.append(Trained(Run("mobilenet", "se", 0), 50.0, 1.0))
    (row,) = report.make_rows(done, {"resnet": {"se": made_up("se", [], 1, 1, 1).cost}})
    assert row.accuracies == [90.0, 91.0, 92.0]


@pytest.fixture
def fashion(tmp_path):
    """A folder with idx files of 140 images to train on and 20 to test."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    for part, count in (("train", 140), ("t10k", 20)):
        pixels = torch.randint(256, (count, 28, 28), dtype=torch.uint8).numpy().tobytes()
        labels = bytes(number % 10 for number in range(count))
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x801, count) + labels))
    return folder


def test_the_short_form_end_to_end_and_once_more(fashion, tmp_path, monkeypatch, capsys):
    for variant in set(VARIANTS) - {STATIC, "kerneldna", "odconv"}:
        monkeypatch.delitem(VARIANTS, variant)
    monkeypatch.setattr(command, "BATCH_SIZE", 2)
    monkeypatch.setattr(command, "SAMPLE_SECONDS", 0)
    setting = Setting("short", epochs=1, seeds=1, images=130)
    work, output = tmp_path / "work", tmp_path / "report"
    first = command.frontier(setting, fashion, work, output, "cpu", workers=2, rounds=1)

    content = json.loads((output / "results.json").read_text())
    assert (content["train"], content["test"], len(content["runs"]), len(content["variants"])) == (130, 20, 6, 6)
    assert "**Short form" in (output / "table.md").read_text()
    assert {path.name for path in output.iterdir()} == {
        *("results.json", "table.md", "logs"),
        *(f"{network}.png" for network in NETWORKS),
    }
    assert len(list((output / "logs").glob("*.csv"))) == 6

    def no_step(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Learner, "step", no_step)
    again = command.frontier(setting, fashion, work, output, "cpu", workers=1, rounds=1)
    assert [row.accuracies for row in again] == [row.accuracies for row in first]
    assert "[6/6]" in capsys.readouterr().out


def test_a_run_under_way_goes_on(fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "costs_of", lambda *_: {})
    monkeypatch.setattr(command, "runs", lambda setting: [Run("resnet", "kerneldna", 0)])
    step, steps = Learner.step, []

    def stop_at_third(self, *batch):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(Learner, "step", stop_at_third)
    arguments = Setting("short", epochs=4, seeds=1, images=128), fashion, tmp_path / "work", tmp_path / "report"
    with pytest.raises(KeyboardInterrupt):
        command.frontier(*arguments, "cpu", workers=1)
    command.frontier(*arguments, "cpu", workers=1)
    assert len(steps) == 2 + 1 + 2  # two epochs of one step, the one that was stopped, the two that were left


def test_missing_images_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "restart_with", lambda allocator: None)
    monkeypatch.setattr("sys.argv", ["frontier", "--short", "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"four idx files of Fashion-MNIST, got .*nowhere\nFashion-MNIST comes with"):
        command.main()
