// Registers a kernel so that an error in one of its calls to torch, such as a lack of memory, keeps the text that torch
// gave it. What reaches the kernel from the stable ABI is only which call failed.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string_view>

#include "checks.h"

namespace kerneldna {

template <void (*Boxed)(StableIValue *, uint64_t, uint64_t)>
void with_torch_errors(StableIValue *stack, uint64_t arguments, uint64_t outputs) {
  try {
    Boxed(stack, arguments, outputs);
  } catch (const std::runtime_error &error) {
    if (std::string_view(error.what()).find("API call failed") == std::string_view::npos)
      throw;
    throw std::runtime_error(torch_error(error.what()));
  }
}

} // namespace kerneldna

#define KERNELDNA_BOX(function) (&kerneldna::with_torch_errors<TORCH_BOX(function)>)
