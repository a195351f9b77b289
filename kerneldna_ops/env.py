"""`python -m kerneldna_ops.env`: what is installed, what was built, and which backends run here. For bug reports."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import kerneldna_ops


def environment() -> dict[str, Any]:
    """The report as a dict: versions, commit, build, devices, and for each the backends with their reasons.

    "commit" is that of the package's checkout, with -dirty where files differ from it; None outside of one. "driver" is
    the NVIDIA driver's version, None without one.
    """
    devices = {"cpu": f"{processor()}, {torch.get_num_threads()} threads"}
    devices |= {f"cuda:{i}": _gpu(i) for i in range(torch.cuda.device_count())}
    return {
        "versions": {
            "kerneldna_ops": kerneldna_ops.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "system": platform.platform(),
        },
        "commit": commit(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "build": kerneldna_ops.build_info(),
        "devices": devices,
        "KERNELDNA_BACKEND": os.environ.get("KERNELDNA_BACKEND") or None,
        "backends": {device: _backends(device) for device in devices},
    }


def report() -> str:
    """The same for reading."""
    found = environment()
    lines = [f"{name}: {value or 'not installed'}" for name, value in found["versions"].items()]
    lines += [f"{name}: {found[name]}" for name in ("commit", "driver") if found[name] is not None]
    lines += [f"built with {name}: {value}" for name, value in found["build"].items()]
    lines.append(f"KERNELDNA_BACKEND: {found['KERNELDNA_BACKEND'] or 'not set (automatic choice)'}")
    for device, name in found["devices"].items():
        lines.append(f"{device}: {name}")
        for backend, (runs, reason) in found["backends"][device].items():
            lines.append(f"  {backend}: {'yes' if runs else 'no'}, {reason}")
    return "\n".join(lines)


def commit() -> str | None:
    folder = Path(kerneldna_ops.__file__).parent
    git = ("git", "-C", str(folder))
    if _output(*git, "ls-files", "__init__.py") is None:  # an installed package can lie inside another checkout
        return None
    return _output(*git, "describe", "--always", "--dirty", "--exclude=*")


def _output(*command: str) -> str | None:
    """What the command prints, None if it fails, prints nothing or is missing."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """By name, family and model: one name stands for several generations."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in found:
        return platform.processor() or platform.machine()
    return f"{found['model name']}, family {found['cpu family']}, model {found['model']}"


def _gpu(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"


def _backends(device: str) -> dict[str, tuple[bool, str]]:
    """Asked about a small call in float16 with an attention per sample, which every backend has a kernel for; another
    one may have reasons of its own."""
    try:
        input, weight, attention = (
            torch.ones(shape, dtype=torch.float16, device=device) for shape in ((1, 8, 1, 1), (8, 8, 1, 1), (1, 8))
        )
    except (RuntimeError, AssertionError) as error:  # what is wrong with a device is what a report is for
        reason = f"PyTorch cannot use the device ({str(error).strip().splitlines()[0]})"
        return dict.fromkeys(kerneldna_ops.backends.NAMES, (False, reason))
    return kerneldna_ops.explain_backends(input, weight, channel_attention=attention)


if __name__ == "__main__":
    print(report())
