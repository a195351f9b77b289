"""What the builders of all networks say about arguments that do not fit."""


def check_counts(builder: str, **counts: int) -> None:
    """Every argument must be a whole number of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{builder}: {name} must be a whole number of at least 1, got {count!r}")
