// The 16-bit numbers: their bits, and the conversions as the GPU rounds them.
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  uint16_t bits;
};

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half value) {
  const uint32_t magnitude = (value.bits & 0x7fffu) << 13, sign = (value.bits & 0x8000u) << 16;
  // The exponent's other bias; what has the largest exponent, infinity or NaN, keeps the largest.
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  return std::bit_cast<float>(sign | scaled | (magnitude >= 0x0f800000 ? 0x7f800000 : 0));
}

inline __half __float2half_rn(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return {0x7fff};
  uint32_t rounded;
  if (magnitude >= 0x47800000) // 2^16
    rounded = 0x7c00;
  else if (magnitude < 0x38800000) // 2^-14: beside 1/2, the last bit counts 2^-24, as it does in a half so small
    rounded = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  else // to the nearest, ties to even, carrying into the exponent
    rounded = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  return {static_cast<uint16_t>(sign | rounded)};
}

inline float __bfloat162float(__nv_bfloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
