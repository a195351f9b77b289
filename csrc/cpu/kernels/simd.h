// Vectors of float or double in the width of the instruction set that this file is compiled for, and the loads and
// stores that convert from and to the stored dtype. GCC's and clang's vector types, so that one source serves AVX-512,
// AVX2 and the portable path (SSE2, NEON); intrinsics only where a vector type has no word for it.
//
// Everything stands in namespace KERNELDNA_ISA: the same templates are compiled once per instruction set, and the
// linker must not fold them into one.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace kerneldna::cpu::KERNELDNA_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
#endif

#define KERNELDNA_INLINE inline __attribute__((always_inline))

template <class T> constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T> struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> using UnalignedVec = typename VectorOf<T>::unaligned;

// The stored dtypes that have no arithmetic here.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

KERNELDNA_INLINE float to_float(BFloat16 value) { return __builtin_bit_cast(float, uint32_t(value.bits) << 16); }

KERNELDNA_INLINE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if (value != value)
    return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)}; // to nearest, ties to even
}

// _Float16 would say this in a word, but GCC 11 has none in C++, clang 14 none on x86.
#if defined(__F16C__)
KERNELDNA_INLINE float to_float(Half value) { return _cvtsh_ss(value.bits); }
KERNELDNA_INLINE Half to_half(float value) { return {uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))}; }
#elif defined(__aarch64__)
KERNELDNA_INLINE float to_float(Half value) { return float(__builtin_bit_cast(__fp16, value.bits)); }
KERNELDNA_INLINE Half to_half(float value) { return {__builtin_bit_cast(uint16_t, __fp16(value))}; }
#else
KERNELDNA_INLINE float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
  if (magnitude < 0x400) // below 2^-14: a multiple of 2^-24
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, float(magnitude) * 0x1p-24f));
  const uint32_t bias = magnitude < 0x7c00 ? 112 : 224; // the exponent of infinity and NaN is the largest in both
  return __builtin_bit_cast(float, sign | ((magnitude << 13) + (bias << 23)));
}
KERNELDNA_INLINE Half to_half(float value) { // to nearest, ties to even
  const uint32_t bits = __builtin_bit_cast(uint32_t, value), magnitude = bits & 0x7fffffff;
  const uint16_t sign = bits >> 16 & 0x8000;
  if (value != value)
    return {uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x3ff))};
  const float size = __builtin_bit_cast(float, magnitude);
  if (size >= 65536) // from 65520 on the last line rounds up to this
    return {uint16_t(sign | 0x7c00)};
  if (size < 0x1p-14f) // the last bit of a sum with 0.5 is 2^-24, as that of the result
    return {uint16_t(sign | uint16_t(__builtin_bit_cast(uint32_t, size + 0.5f)))};
  return {uint16_t(sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13)};
}
#endif

// Scalar access in the dtype of the arithmetic.
KERNELDNA_INLINE float get(const float *p) { return *p; }
KERNELDNA_INLINE double get(const double *p) { return *p; }
KERNELDNA_INLINE float get(const Half *p) { return to_float(*p); }
KERNELDNA_INLINE float get(const BFloat16 *p) { return to_float(*p); }
KERNELDNA_INLINE void put(float *p, float value) { *p = value; }
KERNELDNA_INLINE void put(double *p, double value) { *p = value; }
KERNELDNA_INLINE void put(Half *p, float value) { *p = to_half(value); }
KERNELDNA_INLINE void put(BFloat16 *p, float value) { *p = to_bfloat16(value); }

KERNELDNA_INLINE Vec<float> splat(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#else
  return Vec<float>{value, value, value, value};
#endif
}
KERNELDNA_INLINE Vec<double> splat(double value) {
#if defined(__AVX512F__)
  return _mm512_set1_pd(value);
#elif defined(__AVX2__)
  return _mm256_set1_pd(value);
#else
  return Vec<double>{value, value};
#endif
}

KERNELDNA_INLINE Vec<float> load(const float *p) { return *reinterpret_cast<const UnalignedVec<float> *>(p); }
KERNELDNA_INLINE Vec<double> load(const double *p) { return *reinterpret_cast<const UnalignedVec<double> *>(p); }
KERNELDNA_INLINE void store(float *p, Vec<float> value) { *reinterpret_cast<UnalignedVec<float> *>(p) = value; }
KERNELDNA_INLINE void store(double *p, Vec<double> value) { *reinterpret_cast<UnalignedVec<double> *>(p) = value; }

KERNELDNA_INLINE Vec<float> load(const BFloat16 *p) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
#elif defined(__AVX2__)
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
#else
  return Vec<float>{get(p), get(p + 1), get(p + 2), get(p + 3)};
#endif
}
KERNELDNA_INLINE Vec<float> load(const Half *p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
  return Vec<float>{get(p), get(p + 1), get(p + 2), get(p + 3)};
#endif
}

KERNELDNA_INLINE void store(BFloat16 *p, Vec<float> value) {
  for (int j = 0; j < kLanes<float>; ++j)
    p[j] = to_bfloat16(value[j]);
}
KERNELDNA_INLINE void store(Half *p, Vec<float> value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int j = 0; j < kLanes<float>; ++j)
    p[j] = to_half(value[j]);
#endif
}

// The lanes whose bit is set, from p[lane * step]; the others are zero and their memory is not touched.
template <class S> KERNELDNA_INLINE auto load_masked(const S *p, uint32_t mask, int64_t step) {
  using T = decltype(get(p));
  constexpr uint32_t all = (1u << kLanes<T>)-1;
  if (step == 1) {
    if (mask == all)
      return load(p);
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 8)
      return Vec<T>(_mm512_maskz_loadu_pd(__mmask8(mask), p));
    else if constexpr (sizeof(S) == 4)
      return Vec<T>(_mm512_maskz_loadu_ps(__mmask16(mask), p));
    S buffer[kLanes<T>];
    if constexpr (sizeof(S) == 2) {
      _mm256_storeu_si256((__m256i *)buffer, _mm256_maskz_loadu_epi16(__mmask16(mask), p));
      return load(buffer);
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(S) == 4) {
      const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
      return Vec<T>(_mm256_maskload_ps(p, _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bits), bits)));
    }
#endif
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    if (step == 2) { // the even elements of two vectors
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      uint32_t spread = (mask | mask << 8) & 0x00ff00ff;
      spread = (spread | spread << 4) & 0x0f0f0f0f;
      spread = (spread | spread << 2) & 0x33333333;
      spread = (spread | spread << 1) & 0x55555555;
      return Vec<T>(_mm512_permutex2var_ps(_mm512_maskz_loadu_ps(__mmask16(spread), p), even,
                                           _mm512_maskz_loadu_ps(__mmask16(spread >> 16), p + 16)));
    }
#endif
  Vec<T> value{};
  for (int j = 0; j < kLanes<T>; ++j)
    if (mask >> j & 1)
      value[j] = get(p + j * step);
  return value;
}

// The lanes whose bit is set; the others become zero, whatever they were.
template <class T> KERNELDNA_INLINE Vec<T> keep_masked(Vec<T> value, uint32_t mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 8)
    return _mm512_maskz_mov_pd(__mmask8(mask), value);
  else
    return _mm512_maskz_mov_ps(__mmask16(mask), value);
#else
  for (int j = 0; j < kLanes<T>; ++j)
    value[j] = mask >> j & 1 ? value[j] : T(0);
  return value;
#endif
}

// The first `count` lanes, 0 <= count <= lanes.
template <class S> KERNELDNA_INLINE auto load_first(const S *p, int64_t count) {
  return load_masked(p, (1u << count) - 1, 1);
}
template <class S, class V> KERNELDNA_INLINE void store_first(S *p, V value, int64_t count) {
  if (count == int64_t(sizeof(V) / sizeof(decltype(get(p)))))
    return store(p, value);
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), value);
  else if constexpr (sizeof(S) == 8)
    return _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), value);
#endif
  S buffer[sizeof(V) / sizeof(decltype(get(p)))];
  store(buffer, value);
  std::memcpy(p, buffer, count * sizeof(S));
}

template <class T> KERNELDNA_INLINE T sum_lanes(Vec<T> value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_reduce_add_ps(value);
  else
    return _mm512_reduce_add_pd(value);
#else
  T sum = 0;
  for (int j = 0; j < kLanes<T>; ++j)
    sum += value[j];
  return sum;
#endif
}

// The lanes of a and b, counted through from a to b, in this order.
template <int... Lane, class V> KERNELDNA_INLINE V shuffle(V a, V b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, Lane...);
#else // GCC before 12
  return __builtin_shuffle(a, b, decltype(a == b){Lane...});
#endif
}

template <int Distance, bool High, class V, size_t... Lane>
KERNELDNA_INLINE V exchange(V a, V b, std::index_sequence<Lane...>) {
  constexpr int lanes = sizeof...(Lane);
  if constexpr (!High)
    return shuffle<(Lane & Distance ? int(lanes + Lane - Distance) : int(Lane))...>(a, b);
  else
    return shuffle<(Lane & Distance ? int(lanes + Lane) : int(Lane + Distance))...>(a, b);
}

// Transposes a square block in registers: log2(lanes) rounds of exchanges between rows that are `Distance` apart.
template <class T, int Distance = 1> KERNELDNA_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (Distance < kLanes<T>) {
    constexpr auto lanes = std::make_index_sequence<kLanes<T>>{};
    for (int i = 0; i < kLanes<T>; ++i) {
      if (i & Distance)
        continue;
      const Vec<T> low = exchange<Distance, false>(rows[i], rows[i + Distance], lanes);
      rows[i + Distance] = exchange<Distance, true>(rows[i], rows[i + Distance], lanes);
      rows[i] = low;
    }
    transpose<T, 2 * Distance>(rows);
  }
}

// out[c * out_row + r] = in[r * in_row + c] for r < rows, c < columns. Stores whole vectors, up to a multiple of the
// lanes behind `rows`; what stands there is zero.
template <class S, class T>
KERNELDNA_INLINE void transpose_to(T *out, int64_t out_row, const S *in, int64_t in_row, int64_t rows,
                                   int64_t columns) {
  constexpr int lanes = kLanes<T>;
  for (int64_t r = 0; r < rows; r += lanes)
    for (int64_t c = 0; c < columns; c += lanes) {
      const int64_t width = columns - c < lanes ? columns - c : lanes;
      Vec<T> block[lanes];
      for (int j = 0; j < lanes; ++j)
        block[j] = r + j < rows ? load_first(in + (r + j) * in_row + c, width) : Vec<T>{};
      transpose<T>(block);
      for (int64_t j = 0; j < width; ++j)
        store(out + (c + j) * out_row + r, block[j]);
    }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
