"""The built wheel: its tag, what is in it, and that it works where nothing else of the project is."""

import sys
import zipfile
from email.parser import Parser
from pathlib import PurePath

from support.commands import ROOT, run

USE = """
import torch
import torch.nn.functional as F
import kerneldna_ops
from kerneldna_ops.functional import conv2d

assert kerneldna_ops.__file__.startswith({environment!r}), kerneldna_ops.__file__
x = torch.randn(2, 3, 6, 5)
weight = torch.randn(4, 3, 3, 3, requires_grad=True)
c, f, s = torch.rand(2, 3), torch.rand(2, 4), torch.rand(2, 3, 3)
y = conv2d(x, weight, channel_attention=c, filter_attention=f, spatial_attention=s, padding=1)
for n in range(2):
    expected = F.conv2d(x[n : n + 1] * c[n, :, None, None], weight * s[n], padding=1) * f[n, :, None, None]
    torch.testing.assert_close(y[n : n + 1], expected)
y.sum().backward()
assert weight.grad.isfinite().all()
print(kerneldna_ops.__version__)
"""


# Where the sources are, and where they are in the package.
FOLDERS = {"kerneldna_ops": PurePath("kerneldna_ops"), "triton_kernels": PurePath("kerneldna_ops/triton_kernels")}


def metadata(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return Parser().parsestr(archive.read(path).decode())


def test_tag_says_any_python_from_the_floor(wheel):
    assert "-cp310-abi3-" in wheel.name
    assert all(tag.startswith("cp310-abi3-") for tag in metadata(wheel, "WHEEL").get_all("Tag"))


def test_holds_the_package_and_nothing_else(wheel, unpacked):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    package = {name for name in names if ".dist-info/" not in name}
    expected = {"kerneldna_ops/py.typed", "kerneldna_ops/_C.abi3.so"}
    for folder, name in FOLDERS.items():
        sources = {path.relative_to(unpacked / folder) for path in (unpacked / folder).rglob("*.py")}
        data = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.json")}
        assert sources, folder
        assert data, f"the tables of {folder} are in the package"
        expected |= {str(name / path) for path in sources | data}
    assert package == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_checkout_keeps_what_is_left_over_and_the_emulator_to_itself(checkout, objects, tmp_path):
    assert list(checkout.glob("kerneldna_ops/_left_over*.so"))
    run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path], cwd=checkout)
    assert (tmp_path / "kerneldna_ops" / "functional.py").exists()
    assert not list(tmp_path.rglob("*.so"))
    assert list((checkout / "tests/cuda/host_execution").glob("*.cpp"))
    assert not list(tmp_path.rglob("*cuda_host*"))
    assert not list(tmp_path.rglob("host_execution"))
    assert not [path for path in objects["baseline"] if "host_execution" in path.parts]


def test_says_who_made_it_and_has_no_label(wheel):
    """A label, +cu130, has what was built with CUDA kernels: test_cuda_toolkit.py."""
    told = metadata(wheel, "METADATA")
    assert "maintainers" in told["Author"]
    assert told.get_all("Project-URL")
    assert "+" not in told["Version"]


def test_declares_its_licence(wheel):
    assert metadata(wheel, "METADATA")["License-Expression"] == "Apache-2.0"


def test_works_in_a_clean_environment(wheel, clean_python, tmp_path):
    environment = str(clean_python.parents[1])
    version = run([clean_python, "-c", USE.format(environment=environment)], cwd=tmp_path).strip()
    assert version == metadata(wheel, "METADATA")["Version"]


def test_reports_on_itself_in_a_clean_environment(clean_python, tmp_path):
    assert "torch" in run([clean_python, "-m", "kerneldna_ops.env"], cwd=tmp_path)
