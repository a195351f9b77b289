import os

import pytest
import torch

from .process import KEEP_MEMORY, description


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compiled", action="store_true", help="also torch.compile of the reference and of composite")
    parser.addoption("--rounds", type=int, default=11, help="paired rounds of each case")
    parser.addoption("--threads", type=int, default=2)


def pytest_configure(config: pytest.Config) -> None:
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        settings = " ".join(f"{name}={value}" for name, value in KEEP_MEMORY.items())
        raise pytest.UsageError(f"start the benchmarks with `make bench`, or with these in the environment: {settings}")
    torch.set_num_threads(config.getoption("--threads"))


def pytest_benchmark_generate_machine_info() -> dict[str, str | int]:
    return {name: value for name, value in description().items() if name != "package"}


def pytest_benchmark_update_json(output_json: dict) -> None:
    """The saved file is read by report.py and kept in the repository, so it holds what the report needs and no more."""
    output_json["benchmarks"] = [entry["extra_info"] for entry in output_json["benchmarks"]]
    del output_json["commit_info"]
