"""What is said where a package is missing that only a part of kerneldna_ops needs, and how such packages are installed.

The names of the extras are those in pyproject.toml."""

TOGETHER = (
    "torch and torchvision must be builds for one another: install both from one index of PyTorch, without an NVIDIA"
    " GPU both from its CPU index"
)


def how_to_install(extra: str) -> str:
    return (
        f"`pip install --no-build-isolation '.[{extra}]'` in the checkout installs it, or the same extra of a wheel"
        f" file, `pip install 'FILE.whl[{extra}]'`"
    )


def missing(need: str, extra: str, error: Exception) -> ModuleNotFoundError:
    """What to raise where an import failed: "`need`, which cannot be imported: `error`", and the remedy.

    A package that is there fails otherwise than with ModuleNotFoundError, and what does so is torchvision, alone or
    as timm imports it, if it was built for another torch.
    """
    remedy = how_to_install(extra) if isinstance(error, ModuleNotFoundError) else TOGETHER
    return ModuleNotFoundError(f"{need}, which cannot be imported: {error}; {remedy}")
