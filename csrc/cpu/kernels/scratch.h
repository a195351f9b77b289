// Working memory of one thread: grows to the largest tile asked for (about 1 MiB) and is kept between calls, because
// fresh pages cost more than a small convolution.
//
// What is defined here is always inlined: the kernels include it once per instruction set, under one name, and the
// linker would keep the code of any one of them (tests/packaging/test_symbols.py).
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace kerneldna::cpu {

// Hands out the parts of a piece of memory, one after the other, 64-byte aligned. Without memory it counts them.
class ScratchParts {
public:
  explicit ScratchParts(char *memory) : memory_(memory) {}

  template <class T> __attribute__((always_inline)) void operator()(T *&part, int64_t count) {
    if (memory_) {
      part = reinterpret_cast<T *>(memory_ + bytes_);
#if defined(__SANITIZE_ADDRESS__)
      ASAN_UNPOISON_MEMORY_REGION(part, count * sizeof(T));
#endif
    }
    bytes_ += (count * int64_t(sizeof(T)) + 63) / 64 * 64 + kGap;
  }

  __attribute__((always_inline)) int64_t bytes() const { return bytes_; }

private:
  // Under the address sanitizer nothing but the parts may be touched, and there is a gap behind each.
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kGap = 64;
#else
  static constexpr int64_t kGap = 0;
#endif

  char *memory_;
  int64_t bytes_ = 0;
};

class Scratch {
public:
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  ~Scratch();

  // `layout` names every part with its size, parts(pointer, count), and is run twice: to count, and to set the
  // pointers. What was laid out before is gone.
  template <class Layout> __attribute__((always_inline)) void lay_out(const Layout &layout) {
    ScratchParts counted(nullptr);
    layout(counted);
    ScratchParts parts(reserve(counted.bytes()));
    layout(parts);
  }

private:
  char *reserve(int64_t bytes);

  char *data_ = nullptr;
  int64_t size_ = 0;
};

Scratch &thread_scratch(); // scratch.cpp

} // namespace kerneldna::cpu
