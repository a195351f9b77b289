#include "scratch.h"

#include <cstdlib>
#include <new>

namespace kerneldna::cpu {

Scratch::~Scratch() { std::free(data_); }

char *Scratch::reserve(int64_t bytes) {
  if (bytes > size_) {
    std::free(data_);
    size_ = (bytes + 4095) / 4096 * 4096;
    data_ = static_cast<char *>(std::aligned_alloc(4096, size_));
    if (!data_) {
      size_ = 0;
      throw std::bad_alloc();
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(data_, size_);
#endif
  return data_;
}

Scratch &thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

} // namespace kerneldna::cpu
