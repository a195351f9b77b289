#define KERNELDNA_ISA avx512
#define KERNELDNA_NAME "avx512"
#define KERNELDNA_TABLE kAvx512Kernels
#include "kernels.inc"
