// The asynchronous copies of one thread: cp.async.
#pragma once

#include <cstddef>
#include <vector>

namespace kerneldna::cuda::host_execution {

class Copies {
public:
  // When a copy arrives, which a GPU leaves open: as soon as it starts, or not before someone waits for it.
  enum class Arrival { early, late };
  static void set_arrival(Arrival arrival);

  void start(void *target, const void *source, int bytes, bool valid);
  void commit();
  void wait(int pending);

  // Throws if something was copied that nobody waited for.
  void check_none_pending() const;
  void clear();

private:
  struct Copy {
    void *target;
    const void *source; // null for zeros
    int bytes;
  };
  static void arrive(const Copy &copy);

  std::vector<Copy> copies;
  std::vector<size_t> group_ends; // in copies
};

} // namespace kerneldna::cuda::host_execution
