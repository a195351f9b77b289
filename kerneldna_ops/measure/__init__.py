"""What a call or a network takes: time, memory, multiplications. The commands measure with it, and so do benchmarks."""
