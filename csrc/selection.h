// Who answers a call of the public op: the native kernel of this library, or the backend that Python selected.
//
// The library works in a process with no Python, and in one with Python the default path stays free of it: the native
// kernels look at one flag. Python raises the flag while a backend other than the native one is in force (a context
// manager, KERNELDNA_BACKEND, a table of measured winners), and then the call goes on to kerneldna::_selected_*.
#pragma once

#include <string>

namespace kerneldna {

void select_in_python(bool enabled);
bool selected_in_python();

std::string build_info();

} // namespace kerneldna
