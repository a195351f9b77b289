"""One run that says whether the Triton kernels are right and how fast they are: `python -m benchmarks.gpu_check`.

Needs an NVIDIA GPU, torch, triton, a C++ compiler and nothing else; takes under 10 minutes. Not verified on a GPU.

checkout     a checkout that nobody installed is made importable
machine      the GPU, its versions, its clocks and its two ceilings; or, for a dry run, the CPU
ways         the ways to compute the op and its gradients that are checked and timed
checks       which calls are checked; correctness runs them against float64, in_torch as a part of PyTorch
cells        which calls are timed, against which rivals; timing times them
warm         compiles the kernels of all of these first, in parallel
record       what was found, as JSON that grows with the run; report prints it, targets and winners judge it
"""
