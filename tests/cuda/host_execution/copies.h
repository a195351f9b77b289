// The asynchronous copies of one thread: cp.async.
#pragma once

#include <cstddef>
#include <vector>

namespace kerneldna::cuda::host_execution {

class Copies {
public:
  // When a copy arrives, which a GPU leaves open: as soon as it starts, or not before someone waits for it.
  enum class Arrival { early, late };
  static void set_arrival(Arrival value);
  static Arrival arrival();

  void start(void *target, const void *source, bool valid);
  void commit();
  void wait(int pending);

  // fence.proxy.async: wgmma may read what this thread has waited for.
  void publish();
  // Of 16 bytes of shared memory: nothing was copied there, or it was published.
  static bool is_published(size_t offset);
  static void begin_block(size_t shared_bytes);

  // Throws if something was copied that nobody waited for.
  void check_none_pending() const;
  void clear();

private:
  struct Copy {
    void *target;
    const void *source; // null for zeros
  };
  static void arrive(const Copy &copy);

  std::vector<Copy> copies;
  std::vector<size_t> group_ends;   // in copies
  size_t waited = 0, published = 0; // of all copies of the thread, the first
};

} // namespace kerneldna::cuda::host_execution
