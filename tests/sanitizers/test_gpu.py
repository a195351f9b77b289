"""What `make sanitize-gpu` says where it cannot run, and of what compute-sanitizer reports."""

import os
import subprocess
import sys

import gpu
import pytest

GOOD = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
BAD = (
    "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 16 bytes\n"
    "=========     at conv_gemm_kernel\n========= ERROR SUMMARY: 3 errors\n"
)


@pytest.mark.parametrize(
    ("tool", "code", "output", "said"),
    [
        ("memcheck", 0, GOOD, ""),
        ("memcheck", 1, GOOD, "memcheck: the tests failed"),
        (
            "memcheck",
            0,
            BAD,
            "memcheck: Invalid __global__ read of size 16 bytes; at conv_gemm_kernel; ERROR SUMMARY: 3 errors",
        ),
        ("racecheck", 0, GOOD, "racecheck: ERROR SUMMARY: 0 errors"),  # and not what racecheck says
        ("synccheck", 255, "Device not supported", "synccheck did not run: Device not supported"),
        ("synccheck", 255, "", "synccheck did not run: it ended with 255"),
    ],
)
def test_verdict(tool, code, output, said):
    assert gpu.verdict(tool, code, output) == said


@pytest.mark.parametrize(
    ("tool", "card", "reason"),
    [
        (None, True, "compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit"),
        ("/usr/bin/compute-sanitizer", False, "there is no NVIDIA card: torch.cuda.is_available() is False"),
    ],
    ids=["tool", "card"],
)
def test_what_is_missing_is_said_in_one_sentence(monkeypatch, tool, card, reason):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: tool)
    monkeypatch.setattr("torch.cuda.is_available", lambda: card)
    with pytest.raises(SystemExit, match=f"^sanitize-gpu: {reason}".replace("(", r"\(").replace(")", r"\)") + "$"):
        gpu.main()


def test_the_sample_has_every_kind_of_kernel():
    """Of both backends, forward, backward and squeeze-and-excitation, as it is collected where there is a card."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "support.pretended_card",
        "--collect-only",
    ]
    environment = os.environ | {"PYTHONPATH": ".", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [*command, "--device", "cuda", *gpu.SAMPLE], cwd=gpu.TESTS, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:]
    for test in ("test_output", "test_gradients", "test_every_backend_of_a_card"):
        for backend in ("triton", "cuda"):
            for dtype in ("bfloat16", "tf32"):
                assert f"::{test}[cuda-{backend}-{dtype}-" in done.stdout
