// A thread per ray marches twice: once to count its samples, once to write them behind those of the rays before it.
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <cub/device/device_scan.cuh>
#include <torch/library.h>

#include "common/march.h"
#include "common/march_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

__global__ void mark_blocks(const bool* cells, bool* blocks, uint32_t side, uint32_t block_side) {
  const int64_t count = int64_t(side) * side * side;
  for (int64_t cell = first_thread(); cell < count; cell += thread_stride()) {
    if (!cells[cell]) continue;
    const int64_t x = cell / (int64_t(side) * side), y = cell / side % side, z = cell % side;
    blocks[(x / march_block * block_side + y / march_block) * block_side + z / march_block] = true;  // all who write, write true
  }
}

template <typename T>
struct Rays {
  const T *origins, *directions, *near, *far, *jitter;
  T step;

  __device__ MarchRay<T> operator[](int64_t r) const {
    return {{origins[3 * r], origins[3 * r + 1], origins[3 * r + 2]}, {directions[3 * r], directions[3 * r + 1], directions[3 * r + 2]}, near[r], far[r], jitter[r], step};
  }
};

template <typename T>
__global__ void count_samples(Rays<T> rays, MarchGrid grid, int64_t* counts, int64_t ray_count) {
  for (int64_t r = first_thread(); r < ray_count; r += thread_stride()) {
    int64_t count = 0;
    march_ray(rays[r], grid, [&](T) { ++count; });
    counts[r] = count;
  }
}

template <typename T>
__global__ void write_samples(Rays<T> rays, MarchGrid grid, const int64_t* offsets, T* samples, int64_t ray_count) {
  for (int64_t r = first_thread(); r < ray_count; r += thread_stride()) {
    T* next = samples + offsets[r];
    march_ray(rays[r], grid, [&](T t) { *next++ = t; });
  }
}

// offsets[0] = 0, offsets[r + 1] = counts[0] + ... + counts[r]
at::Tensor offsets_from(const at::Tensor& counts) {
  const int64_t rays = counts.size(0);
  at::Tensor offsets = at::zeros({rays + 1}, counts.options());
  if (rays == 0) return offsets;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto* in = counts.const_data_ptr<int64_t>();
  auto* out = offsets.mutable_data_ptr<int64_t>() + 1;
  size_t bytes = 0;
  C10_CUDA_CHECK(cub::DeviceScan::InclusiveSum(nullptr, bytes, in, out, rays, stream));
  at::Tensor scratch = at::empty({int64_t(bytes)}, counts.options().dtype(at::kByte));
  C10_CUDA_CHECK(cub::DeviceScan::InclusiveSum(scratch.mutable_data_ptr(), bytes, in, out, rays, stream));
  return offsets;
}

int64_t last_of(const at::Tensor& offsets) {
  int64_t value = 0;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(cudaMemcpyAsync(&value, offsets.const_data_ptr<int64_t>() + offsets.size(0) - 1, sizeof(value), cudaMemcpyDeviceToHost, stream));
  C10_CUDA_CHECK(cudaStreamSynchronize(stream));
  return value;
}

std::tuple<at::Tensor, at::Tensor> march_rays(const at::Tensor& origins_, const at::Tensor& directions_, const at::Tensor& near_, const at::Tensor& far_,
                                              const at::Tensor& occupancy_, const at::Tensor& jitter_, double step) {
  march_checks(origins_, directions_, near_, far_, occupancy_, jitter_, step);
  const c10::cuda::CUDAGuard guard(origins_.device());
  const at::Tensor origins = origins_.contiguous(), directions = directions_.contiguous(), near = near_.contiguous(), far = far_.contiguous();
  const at::Tensor occupancy = occupancy_.contiguous(), jitter = jitter_.contiguous();
  const int64_t ray_count = origins.size(0);
  const auto side = uint32_t(occupancy.size(0)), block_side = (side + march_block - 1) / march_block;
  const at::Tensor blocks = at::zeros({block_side, block_side, block_side}, occupancy.options());
  THREEDGEN_LAUNCH(occupancy.numel(), mark_blocks, occupancy.const_data_ptr<bool>(), blocks.mutable_data_ptr<bool>(), side, block_side);
  const MarchGrid grid{occupancy.const_data_ptr<bool>(), blocks.const_data_ptr<bool>(), side, block_side};
  at::Tensor counts = at::empty({ray_count}, origins.options().dtype(at::kLong)), offsets, samples;
  AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "march_rays", [&] {
    const Rays<scalar_t> rays{origins.const_data_ptr<scalar_t>(), directions.const_data_ptr<scalar_t>(), near.const_data_ptr<scalar_t>(),
                              far.const_data_ptr<scalar_t>(),     jitter.const_data_ptr<scalar_t>(),     scalar_t(step)};
    THREEDGEN_LAUNCH(ray_count, count_samples<scalar_t>, rays, grid, counts.mutable_data_ptr<int64_t>(), ray_count);
    offsets = offsets_from(counts);
    samples = at::empty({last_of(offsets)}, origins.options());
    THREEDGEN_LAUNCH(ray_count, write_samples<scalar_t>, rays, grid, offsets.const_data_ptr<int64_t>(), samples.mutable_data_ptr<scalar_t>(), ray_count);
  });
  return {offsets, samples};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) { m.impl("march_rays", &march_rays); }

}  // namespace
}  // namespace threedgen
