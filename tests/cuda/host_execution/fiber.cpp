#include "fiber.h"

#include "sanitizers.h"

#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
// Callee-saved registers onto the old stack, its pointer into *save; then the same backwards on the new one.
extern "C" void kerneldna_switch_stacks(void **save, void *load);
asm(R"(
.pushsection .text
.globl kerneldna_switch_stacks
.hidden kerneldna_switch_stacks
.type kerneldna_switch_stacks, @function
kerneldna_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kerneldna_switch_stacks, . - kerneldna_switch_stacks
.popsection
)");
#endif

namespace kerneldna::cuda::host_execution {
namespace {

constexpr size_t kStackBytes = kSanitized ? 256 << 10 : 64 << 10;

const size_t kPageBytes = sysconf(_SC_PAGESIZE);

// Where the last switch came from, and where it goes.
Fiber *origin, *destination;

} // namespace

Fiber::Fiber(void (*entry)()) : entry(entry) {
  void *memory = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw std::bad_alloc();
  mprotect(memory, kPageBytes, PROT_NONE);
  stack = static_cast<std::byte *>(memory);
  stack_bottom = stack + kPageBytes;
  stack_size = kStackBytes;
  restart();
}

Fiber::~Fiber() {
  if (stack != nullptr)
    munmap(stack, kPageBytes + kStackBytes);
}

void Fiber::restart() {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack_bottom, stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
  if (observer != nullptr) { // what it did before is done; not destroyed, for its end would be taken for a mistake
    void *const self = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(observer, __tsan_switch_to_fiber_no_sync);
    __tsan_switch_to_fiber(self, 0);
  }
  observer = __tsan_create_fiber(0);
#endif
  fake_stack = nullptr;
#if defined(__x86_64__)
  // As kerneldna_switch_stacks would leave it that entry was about to be called: six registers, entry, no caller.
  void *frame[8] = {};
  frame[6] = reinterpret_cast<void *>(entry);
  stack_pointer = stack + kPageBytes + kStackBytes - sizeof(frame);
  std::memcpy(stack_pointer, frame, sizeof(frame));
#else
  getcontext(&context);
  context.uc_stack.ss_sp = stack + kPageBytes;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
#endif
}

void Fiber::switch_to(Fiber &to) {
  origin = this;
  destination = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack, to.stack_bottom, to.stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
  if (observer == nullptr)
    observer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.observer, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
  kerneldna_switch_stacks(&stack_pointer, to.stack_pointer);
#else
  swapcontext(&context, &to.context);
#endif
  entered();
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  // It tells where the stack was that was left: the only way to learn of the OS thread's own.
  __sanitizer_finish_switch_fiber(destination->fake_stack, &origin->stack_bottom, &origin->stack_size);
#endif
}

} // namespace kerneldna::cuda::host_execution
