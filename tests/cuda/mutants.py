"""`python tests/cuda/mutants.py [WORDS]`, after `make host-kernels`: are the tests able to fail?

Each mistake of mutations.py (or each whose name has the words in it) is made in a copy of the checkout, the kernels are
built again for the CPU, and the test that belongs to the mistake is run: it has to fail. Without a mistake all of these
tests pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "runs", "dist", "results", "temp.*"
)
SECONDS = 600  # that a build or a test may take: without a barrier, one may wait for ever


@contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """With what was compiled, in as far as it is up to date."""
    with tempfile.TemporaryDirectory(prefix="mutant_") as folder:
        yield Path(shutil.copytree(ROOT, Path(folder, "checkout"), ignore=LEFT_OUT))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MAX_JOBS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def build(folder: Path) -> None:
    done = run(folder, "tests/cuda/build_host_kernels.py")
    if done.returncode:
        raise RuntimeError(f"does not compile: {(done.stdout + done.stderr)[-3000:]}")


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    return run(
        folder, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *(f"tests/cuda/{test}" for test in tests)
    )


def make(mutation: Mutation, folder: Path) -> None:
    """The times of files say what is to be compiled again."""
    kernels = folder / "csrc/cuda/kernels"
    file = kernels / mutation.file
    unchanged = file.stat()
    text = file.read_text()
    if text.count(mutation.right) != 1:
        raise RuntimeError(f"{mutation.file} has {mutation.right!r} {text.count(mutation.right)} times, not once")
    file.write_text(text.replace(mutation.right, mutation.wrong))
    if mutation.rebuilt:
        os.utime(file, ns=(unchanged.st_atime_ns, unchanged.st_mtime_ns))
        (kernels / mutation.rebuilt).touch()


def try_one(mutation: Mutation) -> str:
    """Why the mistake is not found; nothing if it is."""
    with copy_of_checkout() as folder:
        try:
            make(mutation, folder)
            build(folder)
            done = run_tests(folder, [mutation.test])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return f"{mutation.test} passes"
    if done.returncode != 1 or f"FAILED tests/cuda/{mutation.test}" not in done.stdout:
        return f"{mutation.test} does not run: {(done.stdout + done.stderr)[-3000:]}"
    return ""


def main() -> None:
    words = " ".join(sys.argv[1:])
    chosen = [mutation for mutation in MUTATIONS if words in mutation.name]
    with copy_of_checkout() as folder:
        build(folder)
        done = run_tests(folder, sorted({mutation.test for mutation in chosen}))
    if done.returncode:
        sys.exit(f"without a mistake, too, tests fail:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    survivors = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutation, survived in zip(chosen, pool.map(try_one, chosen), strict=True):
            survivors += bool(survived)
            print(
                f"{'NOT FOUND' if survived else 'found    '} {mutation.name}\n          {survived or mutation.test}",
                flush=True,
            )
    sys.exit(f"{survivors} of {len(chosen)} mistakes were not found" if survivors else None)


if __name__ == "__main__":
    main()
