"""Options of the command line that are out of bounds: one sentence that names the option, before anything is done."""

import argparse
import importlib

import pytest
import torch
from torch import nn

from kerneldna_ops.commands import cli, options, train

NOTHING_AFTER = ("1.5", "-1", "1e9", "nan", "inf", "", "x", "9" * 23, "9" * 5000, "٣" * 40)
POSITIVE = ("0", *NOTHING_AFTER)
SIDES = ("99999999", *POSITIVE)
NETWORK = "kerneldna_mobilenet_v2_050"
TRAIN = ("train", NETWORK, "--data=digits", "--recipe=digits", "--output=o")
EVALUATE = ("evaluate", NETWORK, "--data=digits", "--weights=w")
CKA = ("cka", NETWORK, "--data=digits")

# command, option, what is refused
BOUNDS = [
    (TRAIN, "--image-size", SIDES),
    (TRAIN, "--workers", ("100000", *NOTHING_AFTER)),
    (TRAIN, "--seed", (str(2**64), *NOTHING_AFTER)),
    (TRAIN, "--save-every", ("nan", "inf", "-1", "", "x")),
    (TRAIN, "--epochs", ("1.5", "nan", "", "x", "9" * 5000)),
    (TRAIN, "--learning-rate", ("", "x")),
    (TRAIN, "--output", ("",)),
    (TRAIN, "--weights", ("",)),
    (EVALUATE, "--image-size", SIDES),
    (EVALUATE, "--batch-size", POSITIVE),
    (EVALUATE, "--workers", ("100000", *NOTHING_AFTER)),
    (EVALUATE, "--weights", ("",)),
    (EVALUATE, "--json", ("",)),
    *(
        ((name, NETWORK), option, refused)
        for name in ("throughput", "latency")
        for option, refused in (
            ("--image-size", SIDES),
            ("--batch-size", POSITIVE),
            ("--warmups", POSITIVE),
            ("--iterations", ("1", *POSITIVE)),
            ("--threads", ("100000", *POSITIVE)),
            ("--num-classes", POSITIVE),
            ("--in-channels", POSITIVE),
            ("--json", ("",)),
        )
    ),
    (CKA, "--image-size", SIDES),
    (CKA, "--images", POSITIVE),
    (CKA, "--batch-size", POSITIVE),
    (CKA, "--num-classes", POSITIVE),
    (CKA, "--max-size", ("1.5", "x", "9" * 5000)),
    (CKA, "--threshold", ("x", "")),
    (CKA, "--output", ("",)),
    (CKA, "--weights", ("",)),
    (CKA, "--after-weights", ("",)),
]


def usage_error(capsys, main, arguments):
    """The last line of what is printed for wrong usage, which argparse puts below the usage."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("given", "option", "refused"), BOUNDS, ids=lambda value: value if "-" in value else None)
def test_what_is_out_of_bounds_is_one_sentence(capsys, given, option, refused):
    for text in refused:
        line = usage_error(capsys, cli.main, [*given, f"{option}={text}"])
        assert line.startswith(f"kerneldna {given[0]}: error: argument {option}: ")


def test_every_option_with_a_value_is_tried():
    """All but those that are checked elsewhere, by name."""
    elsewhere = {"--data", "--device", "--recipe", "--amp", "--after", "--against"}  # no number, no path
    elsewhere |= {"--batch-size", "--weight-decay", "--label-smoothing", "--ema-decay", "--warmup-epochs"}  # Recipe's
    tried = {(given[0], option) for given, option, _ in BOUNDS}
    for name, (module, _) in cli.COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(module, cli.__package__).add_arguments(parser)
        for action in parser._actions:
            if action.option_strings and action.nargs is None and action.option_strings[-1] not in elsewhere:
                assert (name, action.option_strings[-1]) in tried


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--epochs=9999999", "epochs: expected a whole number from 1 to 1000000, got 9999999"),
        ("--learning-rate=inf", "learning_rate: expected a number more than 0, got inf"),
        ("--weight-decay=inf", "weight_decay: expected a number, at least 0, got inf"),
        ("--ema-decay=nan", "ema_decay: expected between 0 and 1, got nan"),
        ("--data=", "data: expected digits, torchvision:NAME:ROOT or a folder that exists, got nothing"),
    ],
)
def test_what_the_recipe_and_the_data_say(capsys, tmp_path, option, sentence):
    assert cli.main([*TRAIN[:-1], f"--output={tmp_path}", option]) == 1
    assert capsys.readouterr().err == f"kerneldna train: {sentence}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limits", [("--threshold=nan",), ("--threshold=inf",), ("--max-size=1",)])
def test_the_limits_of_groups(capsys, tmp_path, limits):
    assert cli.main([*CKA, f"--output={tmp_path / 'cka'}", *limits]) == 1
    assert capsys.readouterr().err.startswith(f"kerneldna cka: suggest_groups: {limits[0][2:5]}")
    assert not (tmp_path / "cka").exists()


def test_numbers_within_bounds_are_taken():
    assert options.whole(0, options.MOST_SEED)(str(2**64 - 1)) == 2**64 - 1
    assert options.positive("7") == 7
    assert options.seconds("0") == 0
    torch.manual_seed(options.MOST_SEED)


class Refuses(nn.Module):
    """A network for images of 16 pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        if images.shape[-1] != 16:
            raise AssertionError("Wrong height!\nExpected 16")
        return images.sum((1, 2, 3), keepdim=True).flatten(1) * self.weight


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("8", "does not take a batch of 2 in training of 1x8x8: Wrong height! Expected 16"),
        ("16", "expected a network that gives scores [2, 10], got [2, 1]"),
    ],
)
def test_a_network_that_does_not_go_with_the_images(monkeypatch, tmp_path, capsys, size, sentence):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.setattr(train, "create_model", lambda **_: Refuses())
    assert cli.main([*TRAIN[:-1], f"--output={tmp_path}", f"--image-size={size}", "--device=cpu"]) == 1
    error = capsys.readouterr().err
    assert error.removeprefix(f"kerneldna train: {NETWORK}").lstrip(" :") == f"{sentence}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("throughput", "--batch-size=1"), ("cka", "--data=digits", "--images=4")])
def test_the_other_commands_say_it_too(tmp_path, monkeypatch, capsys, command):
    pytest.importorskip("torchvision", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    name, *options = command
    model = "torchvision/squeezenet1_1"
    assert cli.main([name, model, *options, "--image-size=4", "--device=cpu"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"kerneldna {name}: {model} does not take images of ")
    assert error.count("\n") == 1


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")


@pytest.mark.parametrize(
    "take",
    [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: torch.empty(2**62, 2**62), lambda: [0] * 2**60, on_a_gpu],
    ids=["CPU", "no number for it", "Python", "GPU"],
)
def test_out_of_memory_is_one_sentence(monkeypatch, tmp_path, capsys, take):
    monkeypatch.setattr(train, "open_data", lambda *_: take())
    assert cli.main([*TRAIN[:-1], f"--output={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("kerneldna train: out of memory (")
    assert message.endswith("); smaller images or batches, or a smaller network, take less\n")
    assert message.count("\n") == 1


def test_no_other_fault_is_out_of_memory():
    assert not cli._is_out_of_memory(RuntimeError("a fault"))
