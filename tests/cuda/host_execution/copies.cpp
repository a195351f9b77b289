#include "copies.h"

#include "kernels/launch.h"
#include "sanitizers.h"

#include <cstring>

namespace kerneldna::cuda::host_execution {
namespace {

constexpr int kBytes = 16; // of a copy

Copies::Arrival arrival_now = Copies::Arrival::late;

// The last copy to each kBytes of shared memory.
struct Writer {
  const Copies *thread;
  size_t number; // of the thread's copies
};
std::vector<Writer> writers;

} // namespace

void Copies::set_arrival(Arrival value) { arrival_now = value; }
Copies::Arrival Copies::arrival() { return arrival_now; }

void Copies::start(void *target, const void *source, bool valid) {
  for (const void *end : {static_cast<const void *>(target), source})
    if (reinterpret_cast<uintptr_t>(end) % kBytes != 0)
      fail("cp.async: the ", end == target ? "target" : "source", " is not aligned to ", kBytes, " bytes");
  const auto offset = static_cast<std::byte *>(target) - shared_memory();
  if (offset < 0 || offset + kBytes > static_cast<ptrdiff_t>(shared_bytes()))
    fail("cp.async: the target is ", offset, " bytes into the shared memory, of which there are ", shared_bytes());
  const Copy copy{target, valid ? source : nullptr};
  if (arrival_now == Arrival::early)
    arrive(copy);
  Unobserved own;
  writers[offset / kBytes] = {this, waited + copies.size()};
  copies.push_back(copy);
}

void Copies::commit() {
  Unobserved own;
  group_ends.push_back(copies.size());
}

void Copies::wait(int pending) {
  if (static_cast<int>(group_ends.size()) <= pending)
    return;
  const auto first_pending = group_ends.end() - pending;
  const size_t count = first_pending[-1];
  if (arrival_now == Arrival::late)
    for (size_t i = 0; i < count; ++i)
      arrive(copies[i]);
  Unobserved own;
  copies.erase(copies.begin(), copies.begin() + count);
  group_ends.erase(group_ends.begin(), first_pending);
  for (size_t &end : group_ends)
    end -= count;
  waited += count;
}

void Copies::publish() {
  Unobserved own;
  published = waited;
}

bool Copies::is_published(size_t offset) {
  const Writer &writer = writers[offset / kBytes];
  return writer.thread == nullptr || writer.number < writer.thread->published;
}

void Copies::begin_block(size_t shared_bytes) { writers.assign((shared_bytes + kBytes - 1) / kBytes, {}); }

void Copies::check_none_pending() const {
  if (!copies.empty())
    fail("cp.async: the thread returned without waiting for ", copies.size(), " of its copies");
}

void Copies::clear() { *this = {}; }

void Copies::arrive(const Copy &copy) {
  if (copy.source != nullptr)
    std::memcpy(copy.target, copy.source, kBytes);
  else
    std::memset(copy.target, 0, kBytes);
}

} // namespace kerneldna::cuda::host_execution
