// Working memory of one thread: grows to the largest tile asked for (about 1 MiB) and is kept between calls, because
// fresh pages cost more than a small convolution.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace kerneldna::cpu {

class Scratch {
public:
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  ~Scratch() { std::free(data_); }

  // Starts over with room for `bytes`; take() then hands out 64-byte aligned parts of it.
  void reserve(int64_t bytes) {
    bytes += kMostParts * kGap;
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 4095) / 4096 * 4096;
      data_ = static_cast<char *>(std::aligned_alloc(4096, size_));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    used_ = 0;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(data_, size_);
#endif
  }

  template <class T> T *take(int64_t count) {
    T *part = reinterpret_cast<T *>(data_ + used_);
    used_ += bytes_of<T>(count) + kGap;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(part, count * sizeof(T));
#endif
    return part;
  }

  template <class T> static constexpr int64_t bytes_of(int64_t count) {
    return (count * int64_t(sizeof(T)) + 63) / 64 * 64;
  }

private:
  // Under the address sanitizer nothing but the parts may be touched, and there is a gap behind each.
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kGap = 64, kMostParts = 16;
#else
  static constexpr int64_t kGap = 0, kMostParts = 0;
#endif

  char *data_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

Scratch &thread_scratch(); // isa.cpp

} // namespace kerneldna::cpu
