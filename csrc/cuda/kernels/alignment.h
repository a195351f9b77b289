// Whether a tensor can be read and written 16 bytes at a time.
#pragma once

#include "geometry.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace kerneldna::cuda {

// Whether what starts at data and at each multiple of the strides, counted in elements, starts at 16 bytes.
inline bool is_aligned(const void *data, std::initializer_list<int64_t> strides, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         std::all_of(strides.begin(), strides.end(), [&](int64_t stride) { return stride * element_bytes % 16 == 0; });
}

inline bool is_aligned(const Image &image, int64_t element_bytes) {
  return is_aligned(image.data, {image.sample_stride, image.row_stride, image.column_stride}, element_bytes);
}

inline bool is_aligned(const Scale &scale, int64_t element_bytes) {
  return is_aligned(scale.data, {scale.sample_stride}, element_bytes);
}

} // namespace kerneldna::cuda
