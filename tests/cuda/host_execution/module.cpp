// The Python module of host execution: its controls, and kernels that try its parts. Importing it also registers the
// ops of ops.cpp.
#include "controls.h"
#include "copies.h"
#include "primitives.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <tuple>

namespace kerneldna::cuda::host_execution {
namespace {

template <class T> T choose(const char *argument, const std::string &name, const std::map<std::string, T> &choices) {
  const auto choice = choices.find(name);
  if (choice != choices.end())
    return choice->second;
  std::string names;
  for (const auto &[known, value] : choices)
    names += (names.empty() ? "'" : ", '") + known + "'";
  throw pybind11::value_error(std::string(argument) + " is one of " + names + ", not '" + name + "'");
}

using Size = std::tuple<unsigned, unsigned, unsigned>;
Size size_of(const dim3 &size) { return {size.x, size.y, size.z}; }

std::vector<std::tuple<std::string, Size, Size, size_t>> list_launches() {
  std::vector<std::tuple<std::string, Size, Size, size_t>> list;
  for (const LaunchRecord &record : launches())
    list.emplace_back(record.kernel, size_of(record.grid), size_of(record.block), record.shared_bytes);
  return list;
}

std::vector<std::string> list_overlapping() {
  std::vector<std::string> list;
  for (const LaunchRecord &record : launches())
    if (record.overlaps)
      list.push_back(record.kernel);
  return list;
}

std::vector<std::pair<uintptr_t, int>> allowed_bytes() {
  std::vector<std::pair<uintptr_t, int>> list;
  for (const auto &[kernel, bytes] : allowed_shared_bytes())
    list.emplace_back(reinterpret_cast<uintptr_t>(kernel), bytes);
  return list;
}

} // namespace
} // namespace kerneldna::cuda::host_execution

PYBIND11_MODULE(_cuda_host, module) {
  using namespace kerneldna::cuda;
  using namespace kerneldna::cuda::host_execution;
  using pybind11::arg;

  module.def(
      "set_schedule",
      [](const std::string &blocks, const std::string &threads, uint64_t seed) {
        set_schedule({choose<BlockOrder>("blocks", blocks,
                                         {{"ascending", BlockOrder::ascending},
                                          {"descending", BlockOrder::descending},
                                          {"shuffled", BlockOrder::shuffled}}),
                      choose<ThreadOrder>("threads", threads,
                                          {{"round_robin", ThreadOrder::round_robin},
                                           {"first_ahead", ThreadOrder::first_ahead},
                                           {"last_ahead", ThreadOrder::last_ahead}}),
                      seed});
      },
      arg("blocks") = "ascending", arg("threads") = "round_robin", arg("seed") = 0,
      "The order of blocks ('ascending', 'descending', 'shuffled' by seed) and of the threads of one ('round_robin', "
      "'first_ahead', 'last_ahead').");
  module.def(
      "set_copies",
      [](const std::string &arrival) {
        Copies::set_arrival(choose<Copies::Arrival>(
            "arrival", arrival, {{"early", Copies::Arrival::early}, {"late", Copies::Arrival::late}}));
      },
      arg("arrival"),
      "When a cp.async arrives, and a wgmma reads: 'early', as it starts, or 'late', at the wait that demands it.");
  module.def(
      "set_limits",
      [](int multiprocessors, int shared_bytes, int capability, std::optional<int> compiled, int driver, int error) {
        set_gpu({multiprocessors, shared_bytes, capability, compiled.value_or(capability), driver, error});
      },
      arg("multiprocessors") = 108, arg("shared_bytes") = 163 << 10, arg("capability") = 80,
      arg("compiled") = std::nullopt, arg("driver") = CUDART_VERSION, arg("error") = int(cudaSuccess),
      "What the kernels are told of the GPU, by default an A100: shared_bytes is that of one block, compiled the "
      "architecture of the code that runs there (by default the GPU's own), driver the CUDA version of the driver, "
      "error "
      "what it answers about the kernels.");
  module.def("refusal", [] { return device_of(0).refusal; }, "Why the kernels cannot run on this GPU, or ''.");
  module.def("allowed_shared_bytes", allowed_bytes,
             "(kernel, bytes) each time that a kernel was allowed more shared memory than a block has by default.");
  module.def("launches", list_launches,
             "(kernel, grid, block, bytes of shared memory) of each launch since clear_launches().");
  module.def("overlapping_launches", list_overlapping, "Those of launches() whose overlap the driver is told of.");
  module.def("clear_launches", clear_launches);

  pybind11::module_ primitives = module.def_submodule("primitives", "Kernels that try the parts of host execution.");
  primitives.def("shuffle", try_shuffle, arg("kind"), arg("values"), arg("argument"), arg("width") = 32,
                 arg("times") = 1);
  primitives.def("ldmatrix", try_ldmatrix, arg("numbers"), arg("row_offsets"));
  primitives.def("mma", try_mma, arg("operand"), arg("a"), arg("b"), arg("d"));
  primitives.def("wgmma", try_wgmma, arg("operand"), arg("columns"), arg("numbers"), arg("descriptor"), arg("a"));
  primitives.def("wgmma_misuse", try_wgmma_misuse, arg("what"));
  primitives.def("round", try_round, arg("dtype"), arg("values"), "To the dtype and back, in float32.");
  primitives.def("copies", try_copies, arg("source"), arg("offset"), arg("valid"));
  primitives.def("neighbours", try_neighbours, arg("threads"), arg("barrier"));
  primitives.def("thread_order", try_thread_order, arg("threads"));
  primitives.def("block_order", try_block_order, arg("grid"));
  primitives.def("misuse", try_misuse, arg("what"));
}
