#include "isa.h"
namespace kerneldna::cpu {
const char *active_isa_name() { return "portable"; }
} // namespace kerneldna::cpu
