"""What is said where torchvision is needed and not there, or there without its operators."""

import torch


def need_torchvision(user: str, operators: bool = False) -> None:
    """Raises a ModuleNotFoundError unless torchvision can be imported, and has nms if `operators`."""
    try:
        import torchvision.extension
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision built for another torch fails with RuntimeError as soon as it is imported.
        raise ModuleNotFoundError(f"{user}: needs torchvision, which cannot be imported: {error}") from error
    if operators and not torchvision.extension._has_ops():
        raise ModuleNotFoundError(
            f"{user}: needs the operators of torchvision (nms), and torchvision {torchvision.__version__} was built for"
            f" another torch than {torch.__version__} and cannot load them"
        )
