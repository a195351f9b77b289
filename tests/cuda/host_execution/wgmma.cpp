#include "wgmma.h"

#include "half.h"
#include "kernels/launch.h"
#include "sanitizers.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace kerneldna::cuda::host_execution {
namespace {

constexpr const char *kName = "wgmma";
constexpr int kRows = 16, kDepth = 16;   // of a warp's part
constexpr int kMostColumns = 128;        // twice a thread's sums
constexpr uint32_t kPoison = 0x7fc0dead; // a NaN

// What the PTX manual calls a matrix descriptor.
struct Descriptor {
  uint32_t address, stride, base_offset, swizzle;
};
Descriptor decode(uint64_t bits) {
  const auto field = [&](int first, int count) { return static_cast<uint32_t>(bits >> first & ((1u << count) - 1)); };
  return {field(0, 14) << 4, field(32, 14) << 4, field(49, 3), field(62, 2)};
}

// Where number (k, n) of B stands. The manual lays out numbers of 16 bits, k adjacent, in a swizzle of 128 bytes as
//     n = 8 i + r:    address + i * stride + r * 128 + k * 2
// and then exchanges, in every 1024 bytes of shared memory, the 16-byte parts of each 128 by the number of the 128.
uint32_t address_of(const Descriptor &b, int k, int n) {
  const uint32_t address = b.address + n / 8 * b.stride + n % 8 * 128 + k * 2;
  return address ^ (address >> 7 & 7) << 4;
}

// Eight numbers that stand together: at (k, n) and those of the next k.
template <class Use> void for_each_part(const Descriptor &b, int columns, const Use &use) {
  for (int k = 0; k < kDepth; k += 8)
    for (int n = 0; n < columns; ++n)
      use(k, n, address_of(b, k, n));
}

void check_operand(const Descriptor &b, int columns) {
  Unobserved own;
  if (b.swizzle != 1 || b.base_offset != 0)
    fail(kName, ": swizzle ", b.swizzle, " with base offset ", b.base_offset, ", where only 1 with 0 is known here");
  for_each_part(b, columns, [](int, int, uint32_t address) {
    if (address + 16 > shared_bytes())
      fail(kName, ": reads ", address, " bytes into the shared memory, of which there are ", shared_bytes());
    if (!Copies::is_published(address))
      fail(kName, ": reads ", address,
           " bytes into the shared memory, where a cp.async went without a "
           "fence.proxy.async after the wait for it");
  });
}

void load_operand(const Descriptor &b, int columns, uint16_t (&numbers)[kDepth][kMostColumns]) {
  check_operand(b, columns);
  for_each_part(b, columns, [&](int k, int n, uint32_t address) {
    uint16_t part[8];
    std::memcpy(part, shared_memory() + address, sizeof(part));
    for (int i = 0; i < 8; ++i)
      numbers[k + i][n] = part[i];
  });
}

float to_float(Operand operand, uint32_t bits) {
  const auto number = static_cast<uint16_t>(bits);
  return operand == Operand::f16 ? __half2float({number}) : __bfloat162float({number});
}

// The products that each warp of a group of four has started.
struct Group {
  struct Start {
    Operand operand;
    int columns;
    uint64_t b;
    bool operator==(const Start &) const = default;
  };
  std::vector<Start> starts;
  size_t of_warp[4] = {};
};
std::vector<Group> groups;

void note_start(const Group::Start &start) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned warp = thread / kWarpSize;
  Group &group = groups.at(warp / 4);
  size_t &index = group.of_warp[warp % 4];
  if (index == group.starts.size())
    group.starts.push_back(start);
  else if (group.starts[index] != start)
    fail(kName, ": the four warps of a group start different products");
  ++index;
}

} // namespace

void begin_products() {
  const size_t threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  groups.assign((threads + 4 * kWarpSize - 1) / (4 * kWarpSize), {});
}

void end_products() {
  for (const Group &group : groups)
    for (const size_t count : group.of_warp)
      if (count != group.starts.size())
        fail(kName, ": a warp of a group started ", count, " products, another ", group.starts.size());
}

void Products::start(Operand operand, std::span<float> d, const uint32_t (&a)[4], uint64_t b) {
  const int columns = 2 * static_cast<int>(d.size());
  bool is_last;
  Exchange &lanes = exchange();
  {
    Unobserved own;
    if (!is_fenced)
      fail(kName, ": no wgmma.fence since registers were written");
    Sums &of_d = sums[d.data()];
    if (of_d.pending++ == 0) {
      of_d.values.assign(d.begin(), d.end());
      std::fill(d.begin(), d.end(), std::bit_cast<float>(kPoison));
    }
    products.push_back({operand, b, d, a, {a[0], a[1], a[2], a[3]}});
    lanes.rows[lane_index()] = this;
    is_last = meet(kName);
    if (is_last)
      note_start({operand, columns, b});
  }
  if (!is_last)
    return;
  check_operand(decode(b), columns);
  if (Copies::arrival() == Copies::Arrival::early)
    multiply(lanes, products.size() - 1);
}

void Products::commit() {
  Unobserved own;
  group_ends.push_back(products.size());
}

void Products::wait(int pending) {
  bool is_last;
  size_t count = 0;
  Exchange &lanes = exchange();
  {
    Unobserved own;
    if (static_cast<int>(group_ends.size()) > pending)
      count = group_ends[group_ends.size() - pending - 1];
    lanes.rows[lane_index()] = this;
    is_last = meet("wgmma.wait_group");
  }
  if (is_last && Copies::arrival() == Copies::Arrival::late)
    for (size_t i = 0; i < count; ++i)
      multiply(lanes, i);
  Unobserved own;
  if (count == 0)
    return;
  for (size_t i = 0; i < count; ++i)
    finish(products[i]);
  products.erase(products.begin(), products.begin() + count);
  group_ends.erase(group_ends.begin(), group_ends.end() - pending);
  for (size_t &end : group_ends)
    end -= count;
}

// Product `index` of each lane, into what their sums will be.
void Products::multiply(const Exchange &lanes, size_t index) {
  const auto of_lane = [&](int lane) { return static_cast<const Products *>(lanes.rows[lane]); };
  const Product &any = of_lane(0)->products[index];
  const int columns = 2 * static_cast<int>(any.d.size());
  uint16_t numbers[kDepth][kMostColumns];
  load_operand(decode(any.b), columns, numbers);

  Unobserved own;
  static float a[kRows][kDepth], b[kDepth][kMostColumns], sums[kRows][kMostColumns];
  for (int k = 0; k < kDepth; ++k)
    for (int n = 0; n < columns; ++n)
      b[k][n] = to_float(any.operand, numbers[k][n]);
  for (int lane = 0; lane < kWarpSize; ++lane)
    for (int i = 0; i < 8; ++i) {
      const uint32_t pair = of_lane(lane)->products[index].a_at_start[i / 2];
      a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] =
          to_float(any.operand, pair >> i % 2 * 16 & 0xffff);
    }
  std::memset(sums, 0, sizeof(sums));
  for (int row = 0; row < kRows; ++row)
    for (int k = 0; k < kDepth; ++k)
      for (int n = 0; n < columns; ++n)
        sums[row][n] += a[row][k] * b[k][n];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Products *own_products = of_lane(lane);
    auto &values = const_cast<Products *>(own_products)->sums.at(own_products->products[index].d.data()).values;
    for (size_t i = 0; i < values.size(); ++i)
      values[i] += sums[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
  }
}

// The thread sees the sums once none of their products is under way.
void Products::finish(const Product &product) {
  if (std::memcmp(product.a, product.a_at_start, sizeof(product.a_at_start)) != 0)
    fail(kName, ": a register of an operand was written before the product was waited for");
  Sums &of_d = sums.at(product.d.data());
  if (--of_d.pending > 0)
    return;
  for (const float sum : product.d)
    if (std::bit_cast<uint32_t>(sum) != kPoison)
      fail(kName, ": a register of the sums was written before the product was waited for");
  std::copy(of_d.values.begin(), of_d.values.end(), product.d.begin());
  sums.erase(product.d.data());
}

void Products::check_none_pending() const {
  if (!products.empty())
    fail(kName, ": the thread returned without waiting for ", products.size(), " of its products");
}

void Products::clear() { *this = {}; }

} // namespace kerneldna::cuda::host_execution
