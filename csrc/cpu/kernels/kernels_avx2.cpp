#define KERNELDNA_ISA avx2
#define KERNELDNA_NAME "avx2"
#define KERNELDNA_TABLE kAvx2Kernels
#include "kernels.inc"
