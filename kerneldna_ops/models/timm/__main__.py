"""Run a script, timm's train.py or validate.py for example, that then finds our networks in timm."""

import runpy
import sys
from pathlib import Path

from . import FAMILIES  # noqa: F401  importing the package has registered the networks


def main(arguments: list[str]) -> None:
    """Run arguments[0] as `python SCRIPT ...` would, with the others as its arguments."""
    if not arguments or arguments[0] in ("-h", "--help"):
        raise SystemExit("usage: python -m kerneldna_ops.models.timm SCRIPT [ARGUMENT ...]")
    script = Path(arguments[0])
    if not script.is_file():
        raise SystemExit(f"kerneldna_ops.models.timm: there is no script {script}")
    sys.argv = arguments
    sys.path[0] = str(script.resolve().parent)  # where the script's own modules are
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
