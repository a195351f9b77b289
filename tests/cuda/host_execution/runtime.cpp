#include "runtime.h"

#include "controls.h"
#include "copies.h"
#include "fiber.h"
#include "kernels/launch.h"
#include "sanitizers.h"
#include "wgmma.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace kerneldna::cuda::host_execution {
namespace {

constexpr uint32_t kAllLanes = 0xffffffff;

void run_threads();

// A place for a thread in a block. Slots follow one another in the order in which the schedule favours threads.
struct Slot {
  Fiber fiber{run_threads};
  Copies copies;
  Products products;
  uint3 thread;
  int lane;
  int warp, slot_lane; // in the order of the slots
  bool in_kernel = false;
};

struct Warp {
  uint32_t ready;   // lanes that can go on
  uint32_t alive;   // that have not returned from the kernel
  uint32_t arrived; // that wait for the others of the warp, in:
  const char *instruction;
  int turn; // of the two exchanges, so that a lane that is ahead does not overwrite what others have yet to read
  Exchange exchanges[2];
  Order orders[2];
};

struct Block {
  int alive, arrived; // at the barrier
  int turn;           // of the two orders
  uint32_t ready_warps;
  bool waited_for_previous;
  std::byte *shared;
  std::string error;
};

// One launch at a time, in one OS thread at a time.
std::mutex mutex;
const Launch *launch_now;
const std::function<void()> *kernel_now;
Schedule schedule;
Fiber *caller; // of the launch
std::vector<std::unique_ptr<Slot>> pool;
std::vector<Slot *> slots; // of the block
std::vector<Warp> warps;
Block block;
Slot *current;
std::vector<LaunchRecord> records;
Order launched, finished, barrier[2];

Warp &own_warp() { return warps[current->warp]; }

void make_ready(int warp, uint32_t lanes) {
  warps[warp].ready |= lanes;
  if (warps[warp].ready)
    block.ready_warps |= 1u << warp;
}

void make_wait(const Slot &slot) {
  Warp &warp = warps[slot.warp];
  warp.ready &= ~(1u << slot.slot_lane);
  if (!warp.ready)
    block.ready_warps &= ~(1u << slot.warp);
}

// The bits above one.
uint32_t above(int bit) { return bit == 31 ? 0 : kAllLanes << (bit + 1); }

// Where to go on when the current thread cannot.
Slot *choose_next() {
  if (!block.ready_warps) {
    for (const Warp &warp : warps)
      if (warp.arrived)
        fail("threads wait in ", warp.instruction, " for others of their warp, which wait in __syncthreads");
    fail("all threads wait"); // impossible
  }
  int warp = current->warp;
  const uint32_t later_lanes = warps[warp].ready & above(current->slot_lane);
  if (later_lanes)
    return slots[warp * kWarpSize + std::countr_zero(later_lanes)];
  if (schedule.threads == ThreadOrder::round_robin) {
    const uint32_t later_warps = block.ready_warps & above(warp);
    warp = std::countr_zero(later_warps ? later_warps : block.ready_warps);
  } else if (!warps[warp].ready) {
    warp = std::countr_zero(block.ready_warps);
  }
  return slots[warp * kWarpSize + std::countr_zero(warps[warp].ready)];
}

void go_on_in(Slot *next) {
  Slot *self = current;
  if (next == self)
    return;
  current = next;
  threadIdx = next->thread;
  self->fiber.switch_to(next->fiber);
}

void wait() {
  make_wait(*current);
  go_on_in(choose_next());
}

// All who wait at the barrier go on, in the order of the slots.
void open_barrier() {
  block.arrived = 0;
  block.turn ^= 1;
  for (size_t i = 0; i < warps.size(); ++i)
    make_ready(i, warps[i].alive);
}

void start_kernel() {
  Unobserved own;
  current->in_kernel = true;
  launched.take();
}

// Returns who goes on: another thread, or null for the caller of the launch.
Slot *leave_kernel() {
  Unobserved own;
  current->copies.check_none_pending();
  current->products.check_none_pending();
  Warp &warp = own_warp();
  if (warp.arrived)
    fail("the thread returned while others of its warp wait for it in ", warp.instruction);
  current->in_kernel = false;
  finished.give();
  warp.alive &= ~(1u << current->slot_lane);
  make_wait(*current);
  if (--block.alive == 0)
    return nullptr;
  if (block.arrived == block.alive)
    open_barrier();
  return choose_next();
}

std::string describe(const uint3 &index) {
  std::ostringstream text;
  text << "(" << index.x << ", " << index.y << ", " << index.z << ")";
  return text.str();
}

void record_error(const char *what) {
  std::ostringstream sentence;
  sentence << "kernel " << launch_now->kernel << ", block " << describe(blockIdx) << ", thread " << describe(threadIdx)
           << ": " << what;
  block.error = sentence.str();
}

Slot *run_kernel() {
  try {
    start_kernel();
    (*kernel_now)();
    return leave_kernel();
  } catch (const std::exception &error) {
    Unobserved own;
    record_error(error.what());
    return nullptr;
  }
}

void go_on_outside(Slot *next) {
  Unobserved own;
  if (next != nullptr)
    go_on_in(next);
  else
    current->fiber.switch_to(*caller);
}

// Where the pool's fibers start: each runs a thread of one block after the other.
void run_threads() {
  {
    Unobserved own;
    Fiber::entered();
  }
  while (true)
    go_on_outside(run_kernel());
}

// The place of each thread changes from block to block: the fibers are ThreadSanitizer's threads, and threads of the
// same index in different blocks are different threads.
void place_threads(size_t block_number) {
  const bool reversed = schedule.threads == ThreadOrder::last_ahead;
  const size_t count = slots.size();
  for (size_t i = 0; i < count; ++i) {
    Slot &slot = *pool[(i + block_number) % count];
    const unsigned thread = reversed ? count - 1 - i : i;
    slots[i] = &slot;
    slot.thread = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
    slot.warp = i / kWarpSize;
    slot.slot_lane = i % kWarpSize;
    slot.lane = thread % kWarpSize;
    slot.copies.clear();
    slot.products.clear();
  }
}

void run_block(size_t number) {
  block = {};
  block.alive = slots.size();
  place_threads(number);
  Copies::begin_block(launch_now->shared_bytes);
  begin_products();
  for (size_t i = 0; i < warps.size(); ++i) {
    Warp &warp = warps[i];
    warp.ready = warp.arrived = warp.turn = 0;
    warp.alive = kAllLanes;
    make_ready(i, kAllLanes);
  }
  // Exactly as large as it was asked for, and full of NaN.
  void *shared;
  if (posix_memalign(&shared, 1024, launch_now->shared_bytes) != 0)
    throw std::bad_alloc();
  const std::unique_ptr<void, decltype(&std::free)> owner(shared, std::free);
  std::memset(shared, 0xff, launch_now->shared_bytes);
  block.shared = static_cast<std::byte *>(shared);

  current = slots[0];
  threadIdx = current->thread;
  caller->switch_to(current->fiber);
  finished.take();
  if (!block.error.empty()) {
    for (Slot *slot : slots)
      if (std::exchange(slot->in_kernel, false))
        slot->fiber.restart();
    throw std::runtime_error(block.error);
  }
  end_products();
  if (launch_now->overlaps_previous && !block.waited_for_previous)
    fail("kernel ", launch_now->kernel, ", block ", describe(blockIdx),
         ": no thread called wait_for_previous_kernel, though the launch overlaps the one before");
}

std::vector<size_t> block_numbers(size_t count) {
  std::vector<size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  if (schedule.blocks == BlockOrder::descending)
    std::reverse(numbers.begin(), numbers.end());
  if (schedule.blocks == BlockOrder::shuffled)
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(schedule.seed));
  return numbers;
}

} // namespace

void set_schedule(const Schedule &value) {
  std::lock_guard lock(mutex);
  schedule = value;
}

const std::vector<LaunchRecord> &launches() { return records; }
void clear_launches() { records.clear(); }

void run(const Launch &launch, const std::function<void()> &kernel) {
  std::lock_guard lock(mutex);
  Unobserved own;
  records.push_back({launch.kernel, launch.grid, launch.block, launch.shared_bytes, may_overlap(launch)});
  Fiber self;
  caller = &self;
  launch_now = &launch;
  kernel_now = &kernel;
  gridDim = launch.grid;
  blockDim = launch.block;
  slots.resize(size_t{blockDim.x} * blockDim.y * blockDim.z);
  while (pool.size() < slots.size())
    pool.push_back(std::make_unique<Slot>());
  warps.resize(slots.size() / kWarpSize);
  launched.give();
  for (const size_t number : block_numbers(size_t{gridDim.x} * gridDim.y * gridDim.z)) {
    blockIdx = {static_cast<unsigned>(number % gridDim.x), static_cast<unsigned>(number / gridDim.x % gridDim.y),
                static_cast<unsigned>(number / gridDim.x / gridDim.y)};
    run_block(number);
  }
}

std::byte *shared_memory() { return block.shared; }
size_t shared_bytes() { return launch_now->shared_bytes; }
Copies &copies() { return current->copies; }
Products &products() { return current->products; }
void note_wait_for_previous_kernel() {
  Unobserved own;
  block.waited_for_previous = true;
}

int lane_index() { return current->lane; }

Exchange &exchange() { return own_warp().exchanges[own_warp().turn]; }

bool meet(const char *instruction) {
  Warp &warp = own_warp();
  if (warp.alive != kAllLanes)
    fail(instruction, ": other threads of the warp have returned from the kernel");
  if (warp.arrived == 0)
    warp.instruction = instruction;
  else if (warp.instruction != instruction && std::strcmp(warp.instruction, instruction) != 0)
    fail(instruction, ": other threads of the warp are in ", warp.instruction);
  warp.arrived |= 1u << current->slot_lane;
  if (warp.arrived != kAllLanes) {
    wait();
    return false;
  }
  warp.arrived = 0;
  warp.turn ^= 1;
  make_ready(current->warp, kAllLanes);
  return true;
}

void synchronize_warp() {
  Unobserved own;
  Order &order = own_warp().orders[own_warp().turn];
  order.give();
  if (meet("__syncwarp") && schedule.threads != ThreadOrder::round_robin)
    go_on_in(slots[current->warp * kWarpSize]);
  order.take();
}

void synchronize_block() {
  Unobserved own;
  Order &order = barrier[block.turn];
  order.give();
  if (++block.arrived == block.alive) {
    open_barrier();
    go_on_in(slots[std::countr_zero(block.ready_warps) * kWarpSize +
                   std::countr_zero(warps[std::countr_zero(block.ready_warps)].ready)]);
  } else {
    wait();
  }
  order.take();
}

} // namespace kerneldna::cuda::host_execution
