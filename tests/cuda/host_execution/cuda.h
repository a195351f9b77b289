// CUDA C++ as kernels/ uses it, by the names that CUDA has for it, for a C++ compiler.
#pragma once

#include "device.h"
#include "half.h"
#include "instructions.h"
#include "runtime.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define KERNELDNA_SHARED(name)                                                                                         \
  unsigned char *const name = reinterpret_cast<unsigned char *>(kerneldna::cuda::host_execution::shared_memory())

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void __syncthreads() { kerneldna::cuda::host_execution::synchronize_block(); }

inline void __syncwarp(unsigned mask = 0xffffffff) {
  kerneldna::cuda::host_execution::check_mask("__syncwarp", mask);
  kerneldna::cuda::host_execution::synchronize_warp();
}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = kerneldna::cuda::host_execution::lane_index() & -width;
  return kerneldna::cuda::host_execution::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = kerneldna::cuda::host_execution::lane_index(), source = lane ^ bits;
  const bool exists = source < (lane & -width) + width;
  return kerneldna::cuda::host_execution::shuffle("__shfl_xor_sync", mask, value, exists ? source : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = kerneldna::cuda::host_execution::lane_index(), source = lane + static_cast<int>(distance);
  const bool exists = source < (lane & -width) + width;
  return kerneldna::cuda::host_execution::shuffle("__shfl_down_sync", mask, value, exists ? source : lane);
}

template <class T> T __ldg(const T *pointer) { return *pointer; }
inline float __expf(float x) { return expf(x); }
[[noreturn]] inline void __trap() { kerneldna::cuda::host_execution::trap(); }

// A NaN loses against a number, as on the GPU.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
#define KERNELDNA_MIN_MAX(type)                                                                                        \
  inline type min(type a, type b) { return b < a ? b : a; }                                                            \
  inline type max(type a, type b) { return a < b ? b : a; }
KERNELDNA_MIN_MAX(int)
KERNELDNA_MIN_MAX(unsigned)
KERNELDNA_MIN_MAX(long)
KERNELDNA_MIN_MAX(unsigned long)
KERNELDNA_MIN_MAX(long long)
KERNELDNA_MIN_MAX(unsigned long long)
#undef KERNELDNA_MIN_MAX
