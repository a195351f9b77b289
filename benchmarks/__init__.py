"""Latency and memory against static F.conv2d. Start with `python -m benchmarks.latency --help`."""
