import os

import pytest
import torch

from . import devices
from .options import DEVICE_HELP, DTYPES
from .process import KEEP_MEMORY, description


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=devices.DEVICES, default=devices.CPU, help=DEVICE_HELP)
    parser.addoption("--dtype", action="append", choices=list(DTYPES), help="repeatable; default: float32")
    parser.addoption("--compiled", action="store_true", help="also torch.compile of the reference and of composite")
    parser.addoption("--rounds", type=int, default=11, help="paired rounds of each case")
    parser.addoption("--threads", type=int, default=2)


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device")
    if device == devices.CPU and any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        settings = " ".join(f"{name}={value}" for name, value in KEEP_MEMORY.items())
        raise pytest.UsageError(f"start the benchmarks with `make bench`, or with these in the environment: {settings}")
    torch.set_num_threads(config.getoption("--threads"))
    try:
        devices.ready(device)
    except ValueError as error:
        raise pytest.UsageError(f"argument --device: {error}") from None


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str | int]:
    return {name: value for name, value in description(config.getoption("--device")).items() if name != "package"}


def pytest_benchmark_update_json(output_json: dict) -> None:
    """The saved file is read by report.py and kept in the repository, so it holds what the report needs and no more."""
    output_json["benchmarks"] = [entry["extra_info"] for entry in output_json["benchmarks"]]
    del output_json["commit_info"]
