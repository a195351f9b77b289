// Lets `import kerneldna_ops._C` run this library's static registrations. Nothing else is bound: ops go through the
// dispatcher.
#include <Python.h>

// Weak, so that a process with no Python can load the library too.
extern "C" PyObject *PyModule_Create2(PyModuleDef *, int) __attribute__((weak));

// libstdc++'s shared_ptr asks glibc 2.32 this, and with it the wheel would not run with older ones: "no", as in any
// process that has torch's threads.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
