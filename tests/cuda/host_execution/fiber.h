// A function on a stack of its own, which an OS thread enters and leaves where it likes.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace kerneldna::cuda::host_execution {

// Each fiber is a thread to ThreadSanitizer, and switching orders nothing: what one fiber writes for another is a race
// unless Order (sanitizers.h) says otherwise.
class Fiber {
public:
  Fiber() = default; // the stack of the OS thread, once it switches away from it
  // entry never returns; it starts with the first switch.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber &) = delete;

  // Back to the start of entry, whatever the fiber was doing. Nothing on its stack is destroyed.
  void restart();

  // Goes on in `to`, until someone switches back.
  void switch_to(Fiber &to);

  // To be called once in a fiber that was entered for the first time.
  static void entered();

private:
  void (*entry)() = nullptr;
  std::byte *stack = nullptr; // with the guard page
  const void *stack_bottom = nullptr;
  size_t stack_size = 0;
  void *fake_stack = nullptr; // AddressSanitizer's
  void *observer = nullptr;   // ThreadSanitizer's
#if defined(__x86_64__)
  void *stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

} // namespace kerneldna::cuda::host_execution
