#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/march.h"
#include "common/march_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 256;  // rays a task marches

// Whether any of up to march_block cells in a row is occupied.
bool any_occupied(const bool* cells, int64_t count) {
  if (count < march_block) return std::any_of(cells, cells + count, [](bool cell) { return cell; });
  uint64_t word;
  static_assert(sizeof(word) == march_block);
  std::memcpy(&word, cells, sizeof(word));
  return word != 0;
}

// Whether any cell of a block is occupied, for all blocks.
at::Tensor occupied_blocks(const at::Tensor& occupancy) {
  const int64_t side = occupancy.size(0), block = march_block, blocks = (side + block - 1) / block;
  at::Tensor out = at::empty({blocks, blocks, blocks}, occupancy.options());
  const bool* cells = occupancy.const_data_ptr<bool>();
  bool* any = out.mutable_data_ptr<bool>();
  parallel_tasks(blocks, [&](int64_t bx) {
    bool* slab = any + bx * blocks * blocks;
    std::fill(slab, slab + blocks * blocks, false);
    for (int64_t x = bx * block; x < std::min(side, (bx + 1) * block); ++x)
      for (int64_t y = 0; y < side; ++y)
        for (int64_t bz = 0; bz < blocks; ++bz)
          slab[(y / block) * blocks + bz] |= any_occupied(cells + (x * side + y) * side + bz * block, std::min(block, side - bz * block));
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> march_rays(const at::Tensor& origins_, const at::Tensor& directions_, const at::Tensor& near_, const at::Tensor& far_,
                                              const at::Tensor& occupancy_, const at::Tensor& jitter_, double step) {
  march_checks(origins_, directions_, near_, far_, occupancy_, jitter_, step);
  const at::Tensor origins = origins_.contiguous(), directions = directions_.contiguous(), near = near_.contiguous(), far = far_.contiguous();
  const at::Tensor occupancy = occupancy_.contiguous(), jitter = jitter_.contiguous(), blocks = occupied_blocks(occupancy);
  const MarchGrid grid{occupancy.const_data_ptr<bool>(), blocks.const_data_ptr<bool>(), uint32_t(occupancy.size(0)), uint32_t(blocks.size(0))};
  const int64_t rays = origins.size(0), tasks = (rays + chunk - 1) / chunk;
  at::Tensor offsets = at::empty({rays + 1}, origins.options().dtype(at::kLong)), samples;
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "march_rays", [&] {
    const auto *o = origins.const_data_ptr<scalar_t>(), *d = directions.const_data_ptr<scalar_t>();
    const auto *n = near.const_data_ptr<scalar_t>(), *f = far.const_data_ptr<scalar_t>(), *j = jitter.const_data_ptr<scalar_t>();
    std::vector<std::vector<scalar_t>> kept(tasks);  // per task, so that one march finds both the number of samples and the samples
    parallel_tasks(tasks, [&](int64_t task) {
      auto& mine = kept[task];
      for (int64_t r = task * chunk; r < std::min(rays, (task + 1) * chunk); ++r) {
        const size_t before = mine.size();
        const MarchRay<scalar_t> ray{{o[3 * r], o[3 * r + 1], o[3 * r + 2]}, {d[3 * r], d[3 * r + 1], d[3 * r + 2]}, n[r], f[r], j[r], scalar_t(step)};
        march_ray(ray, grid, [&](scalar_t t) { mine.push_back(t); });
        offset[r + 1] = int64_t(mine.size() - before);
      }
    });
    offset[0] = 0;
    for (int64_t r = 0; r < rays; ++r) offset[r + 1] += offset[r];
    samples = at::empty({offset[rays]}, origins.options());
    auto* out = samples.mutable_data_ptr<scalar_t>();
    parallel_tasks(tasks, [&](int64_t task) { std::copy(kept[task].begin(), kept[task].end(), out + offset[task * chunk]); });
  });
  return {offsets, samples};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) { m.impl("march_rays", &march_rays); }

}  // namespace
}  // namespace threedgen
