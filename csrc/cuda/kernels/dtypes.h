// The numbers that tensors hold, and the arithmetic on them.
#pragma once

#include "platform.h"

namespace kerneldna::cuda {

// What a tensor stores, as the host names it to a kernel's launch function.
enum class Stored { f32, f16, bf16 };

constexpr int size_of(Stored stored) { return stored == Stored::f32 ? 4 : 2; }

// use(T()) with T the type of the numbers that are stored.
template <class Use> auto with_type_of(Stored stored, Use use) {
  switch (stored) {
  case Stored::f16:
    return use(__half());
  case Stored::bf16:
    return use(__nv_bfloat16());
  default:
    return use(float());
  }
}

// All sums run in float32.
__host__ __device__ inline float to_compute(float value) { return value; }
__host__ __device__ inline float to_compute(__half value) { return __half2float(value); }
__host__ __device__ inline float to_compute(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T> __host__ __device__ inline T from_compute(float value) { return value; }
template <> __host__ __device__ inline __half from_compute<__half>(float value) { return __float2half_rn(value); }
template <> __host__ __device__ inline __nv_bfloat16 from_compute<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// 16 bytes of a tensor, the most that one instruction moves.
template <class T> struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];
};

// Two 16-bit numbers in one register, multiplied in their own precision: one rounding each.
template <class T> __device__ inline uint32_t multiply_pair(uint32_t a, uint32_t b);

#ifdef __CUDACC__
template <> __device__ inline uint32_t multiply_pair<__half>(uint32_t a, uint32_t b) {
  const __half2 product = __hmul2(reinterpret_cast<const __half2 &>(a), reinterpret_cast<const __half2 &>(b));
  return reinterpret_cast<const uint32_t &>(product);
}
template <> __device__ inline uint32_t multiply_pair<__nv_bfloat16>(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(reinterpret_cast<const __nv_bfloat162 &>(a), reinterpret_cast<const __nv_bfloat162 &>(b));
  return reinterpret_cast<const uint32_t &>(product);
}
#elif defined(KERNELDNA_HOST_EXECUTION)
template <class T> inline uint32_t multiply_pair(uint32_t a, uint32_t b) {
  T in[4], out[2];
  std::memcpy(in, &a, 4);
  std::memcpy(in + 2, &b, 4);
  for (int i = 0; i < 2; ++i)
    out[i] = from_compute<T>(to_compute(in[i]) * to_compute(in[2 + i]));
  uint32_t product;
  std::memcpy(&product, out, 4);
  return product;
}
#endif

} // namespace kerneldna::cuda
