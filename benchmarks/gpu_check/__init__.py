"""One run that says whether the Triton kernels, and the library's CUDA kernels where it has them, are right and how
fast they are: `python -m benchmarks.gpu_check`.

Needs an NVIDIA GPU, torch, triton, a C++ compiler and nothing else; takes under 10 minutes. Where there is no op
library yet and nvcc is on the PATH, one with CUDA kernels for this GPU is built first. Not verified on a GPU.

checkout     a checkout that nobody installed is made importable
machine      the GPU, its versions, its clocks and its two ceilings; or, for a dry run, the CPU
ways         the ways to compute the op and its gradients that are checked and timed
checks       which calls are checked; correctness runs them, comparison holds them against float64, and in_torch tries
             the op as a part of PyTorch
cells        which calls are timed, against which rivals, others and child_layer what else is; measure checks them once
             more, timing times them
warm         compiles the kernels of all of these first, in parallel
sections     the steps of a run in their order; record keeps what they find, as JSON that grows with the run
report       the tables at the end; targets and winners judge what was measured, profile asks the hardware counters,
             sanitizer compute-sanitizer
"""
