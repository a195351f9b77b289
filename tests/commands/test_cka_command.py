"""kerneldna cka, from end to end on the digits."""

import csv
import json
import math

import pytest
import torch

from kerneldna_ops.analysis import CKA, cka, suggest_groups
from kerneldna_ops.analysis.layers import is_convolution
from kerneldna_ops.analysis.tables import to_plain, write_csv
from kerneldna_ops.commands import cli
from kerneldna_ops.models import create_model
from kerneldna_ops.training import checkpoint
from kerneldna_ops.training.sources import open_data

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
imread = pytest.importorskip("matplotlib.image").imread

SMALL = ("--data=digits", "--images=12", "--batch-size=6", "--device=cpu")
NETWORK = {"name": "kerneldna_mobilenet_v2_050", "num_classes": 10, "in_channels": 1}


pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(7)
    return create_model(**NETWORK)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def trained(network, tmp_path):
    """What kerneldna train leaves, trained on images of 28x28, which are not the digits' own 32x32."""
    path = tmp_path / "best.pt"
    data = {"name": "digits", "classes": list("0123456789"), "channels": 1, "image_size": 28}
    checkpoint.save(path, {"network": NETWORK, "data": data, "model": network.state_dict()})
    return path


def run(*arguments):
    return cli.main(["cka", *map(str, arguments)])


def read_csv(path):
    with path.open(newline="") as file:
        head, *lines = csv.reader(file)
    return head[1:], [line[0] for line in lines], [[float(value) for value in line[1:]] for line in lines]


def test_one_network(trained, network, tmp_path, capsys):
    output = tmp_path / "deep" / "output"
    assert run(trained, *SMALL, "--threshold=0.5", "--max-size=3", "--output", output) == 0

    split = open_data("digits", 28).validation
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:12]
    expected = cka(network, [split.load(indices)[0] for indices in chosen.split(6)])
    columns, names, values = read_csv(output / "cka.csv")
    assert tuple(columns) == tuple(names) == expected.names
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected.matrix)

    content = json.loads((output / "cka.json").read_text())
    assert content["cka"]["matrix"] == values
    assert (content["cka"]["batches"], content["cka"]["samples"]) == (2, 12)
    setting = content["setting"]
    assert (setting["model"], setting["weights"], setting["data"]) == (str(trained), None, "digits")
    assert (setting["images"], setting["batch_size"], setting["image_size"]) == (12, 6, 28)

    groups = suggest_groups(expected, network, threshold=0.5, max_size=3)
    assert groups
    assert json.loads((output / "groups.json").read_text()) == groups
    printed, errors = capsys.readouterr()
    for parent, children in groups.items():
        assert f"  {', '.join([parent, *children])}\n" in printed
    assert "2/2" in errors
    assert imread(output / "cka.png").std() > 0.1
    files = {"cka.json", "groups.json", "cka.csv", "cka.png"}
    assert {each.name for each in output.iterdir()} == files
    assert all(str(output / name) in printed for name in files)


def test_before_and_after(weights, network, tmp_path):
    arguments = (NETWORK["name"], "--weights", weights, "--after=torchvision/squeezenet1_1", "--max-size=2")
    assert run(*arguments, *SMALL, "--output", tmp_path) == 0
    convolutions = [name for name, module in network.named_modules() if is_convolution(name, module)]
    tables = {name: read_csv(tmp_path / f"{name}.csv") for name in ("before", "after", "across")}
    assert tables["before"][0] == tables["before"][1] == tables["across"][1]
    assert sorted(tables["before"][0]) == sorted(convolutions)
    assert tables["after"][0] == tables["after"][1] == tables["across"][0]
    assert tables["after"][0][0] == "features.0"
    content = json.loads((tmp_path / "cka.json").read_text())
    assert all(content[name]["matrix"] == values for name, (_, _, values) in tables.items())
    assert content["setting"]["weights"] == str(weights)
    assert content["setting"]["after"] == "torchvision/squeezenet1_1"
    # Two heat maps beside each other, and one.
    assert imread(tmp_path / "cka.png").shape[1] > 1.5 * imread(tmp_path / "across.png").shape[1]
    groups = json.loads((tmp_path / "groups.json").read_text())
    assert set(groups) <= set(convolutions)


def test_the_classes_of_the_weights(network, weights, tmp_path, capsys):
    """CKA does not care about classes: weights for others than those of the data have only to be announced."""
    state = network.state_dict() | {"classifier.1.weight": torch.zeros(7, 1280), "classifier.1.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "seven.pt")
    arguments = (NETWORK["name"], "--weights", tmp_path / "seven.pt", *SMALL, "--output", tmp_path)
    assert run(*arguments) == 1
    assert "num_classes=7" in capsys.readouterr().err
    assert run(*arguments, "--num-classes=7") == 0


def test_what_does_not_exist_is_null_in_json_and_nan_in_csv(tmp_path):
    similarity = CKA(("a", "b"), ("a", "b"), torch.tensor([[1, torch.nan], [torch.nan, torch.nan]]), 1, 4)
    write_csv(tmp_path / "cka.csv", similarity)
    assert math.isnan(read_csv(tmp_path / "cka.csv")[2][0][1])
    assert to_plain(similarity)["matrix"] == [[1, None], [None, None]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--images=100000",), "--images must be at most the 8"),
        (("--images=14", "--batch-size=6"), "--images and --batch-size must make batches of at least 4, the last one"),
        (("--images=3",), "--images and --batch-size must make batches of at least 4, the last one too, got 3 and 6"),
        (("--threshold=2",), "suggest_groups: threshold must be between 0 and 1, got 2.0"),
        (("--after-weights=x.pt",), "--after-weights needs --after, the model that the weights are for"),
        (("--device=magic",), "device: expected cpu or cuda, got 'magic'"),
        (("--weights=missing.pt",), "No such file or directory: 'missing.pt'"),
        (("--data=missing",), "data: expected digits, torchvision:NAME:ROOT or a folder that exists, got missing"),
    ],
)
def test_bad_options(arguments, sentence, tmp_path, capsys):
    assert run("kerneldna_resnet18", *SMALL, "--output", tmp_path / "output", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("kerneldna cka: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_file_needs_no_weights(trained, weights, capsys):
    assert run(trained, *SMALL, "--weights", weights, "--output", trained.parent) == 1
    assert f"and {trained} is a file with weights of its own\n" in capsys.readouterr().err


def test_a_file_for_other_images(network, tmp_path, capsys):
    path = tmp_path / "best.pt"
    data = {"name": "photos", "classes": ["cat"], "channels": 3, "image_size": 32}
    checkpoint.save(path, {"network": NETWORK, "data": data, "model": network.state_dict()})
    assert run(path, *SMALL, "--output", tmp_path) == 1
    error = capsys.readouterr().err
    assert error == f"kerneldna cka: {path}: a network for images of 3 channels, those of digits have 1\n"
