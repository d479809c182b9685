#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>

namespace threedgen {

// Runs task(0) ... task(count - 1) on torch's threads, each taking the next one free. Which thread runs a task varies, so a
// task must own what it writes; then the result does not depend on the number of threads.
template <typename Task>
void parallel_tasks(int64_t count, const Task& task) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
  });
}

}  // namespace threedgen
