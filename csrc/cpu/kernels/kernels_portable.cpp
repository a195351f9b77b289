#define KERNELDNA_ISA portable
#define KERNELDNA_NAME "portable"
#define KERNELDNA_TABLE kPortableKernels
#include "kernels.inc"
