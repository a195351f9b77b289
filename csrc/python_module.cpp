// Lets `import kerneldna_ops._C` run this library's static registrations. Nothing else is bound: ops go through the
// dispatcher.
#include <Python.h>

// Weak, so that a process with no Python can load the library too.
extern "C" PyObject *PyModule_Create2(PyModuleDef *, int) __attribute__((weak));

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
