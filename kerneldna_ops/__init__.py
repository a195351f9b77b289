"""Dynamic convolution at the cost of a static one: one parent weight, modulated per sample, never materialised.

Importing it needs torch alone. It registers torch.ops.kerneldna.conv, conv_backward and squeeze_excite.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# In a checkout the kernels lie beside the package; where they are installed they lie inside.
if not os.path.isdir(os.path.join(__path__[0], "triton_kernels")):
    __path__.append(os.path.dirname(__path__[0]))

# First, because it loads the library that defines the ops.
from .library import build_info  # isort: skip
from . import functional, op  # noqa: F401
from .backends import use_backend
from .functional import compatible_backends, explain_backends

if TYPE_CHECKING:
    from . import models as models
    from . import nn as nn
    from ._warmup import warmup as warmup
    from .backends._autotune import autotune as autotune
    from .sharing import materialize as materialize
    from .sharing import share_kernels as share_kernels

__all__ = [
    "autotune",
    "build_info",
    "compatible_backends",
    "explain_backends",
    "functional",
    "materialize",
    "models",
    "nn",
    "share_kernels",
    "use_backend",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name in ("models", "nn"):
        return importlib.import_module(f".{name}", __name__)  # `from . import` would ask here again
    if name == "autotune":
        from .backends._autotune import autotune

        return autotune
    if name == "warmup":
        from ._warmup import warmup

        return warmup
    if name in ("materialize", "share_kernels"):
        from . import sharing

        return getattr(sharing, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("kerneldna-ops")
        except PackageNotFoundError:
            return "0+unknown"  # a checkout that was built in place and not installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
