"""The command line: `kerneldna`, also `python -m kerneldna_ops`."""
