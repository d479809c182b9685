// Which Gaussians each tile shows, nearest first, by two stable radix sorts: of all Gaussians by depth, then of their entries by tile.
// So equal depths stay in the order of the index, and a sort looks only at the bits that differ.
#include <cstdint>
#include <limits>
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <torch/library.h>

#include "common/splat.h"
#include "common/splat_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

template <typename T>
struct SplatBoxes {
  const T *mean, *extent, *depth;
  int64_t height, width, tile;

  __device__ PixelBox tiles_of(int64_t g) const {
    const bool drawn = depth[g] > 0 && depth[g] <= std::numeric_limits<T>::max();
    if (!drawn) return {0, -1, 0, -1};
    const PixelBox box = pixel_box(mean + 2 * g, extent + 2 * g, height, width);
    return box.empty() ? PixelBox{0, -1, 0, -1} : PixelBox{box.x0 / tile, box.x1 / tile, box.y0 / tile, box.y1 / tile};
  }
};

__device__ inline int64_t tile_count(const PixelBox& tiles) { return (tiles.x1 - tiles.x0 + 1) * (tiles.y1 - tiles.y0 + 1); }

// counts[i]: tiles that the i-th nearest Gaussian reaches
template <typename T>
__global__ void splat_count_tiles(SplatBoxes<T> boxes, const int32_t* order, int64_t* counts, int64_t gaussians) {
  for (int64_t i = first_thread(); i < gaussians; i += thread_stride()) counts[i] = tile_count(boxes.tiles_of(order[i]));
}

// Of the i-th nearest Gaussian, which ends at entry ends[i]: the tile of each of its entries, and its index.
template <typename T>
__global__ void splat_write_entries(SplatBoxes<T> boxes, const int32_t* order, const int64_t* ends, int32_t* tile, int32_t* entry, int64_t gaussians,
                                    int64_t per_view, int64_t rows, int64_t columns) {
  for (int64_t i = first_thread(); i < gaussians; i += thread_stride()) {
    const int32_t g = order[i];
    const PixelBox tiles = boxes.tiles_of(g);
    int64_t next = i == 0 ? 0 : ends[i - 1];
    for (int64_t y = tiles.y0; y <= tiles.y1; ++y)
      for (int64_t x = tiles.x0; x <= tiles.x1; ++x, ++next) tile[next] = int32_t((g / per_view * rows + y) * columns + x), entry[next] = g;
  }
}

// offsets[t]: the first of the sorted entries whose tile is t or a later one
__global__ void splat_tile_offsets(const int32_t* tile, int64_t entries, int64_t* offsets, int64_t tiles) {
  for (int64_t t = first_thread(); t <= tiles; t += thread_stride()) {
    int64_t low = 0, high = entries;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (tile[middle] < t)
        low = middle + 1;
      else
        high = middle;
    }
    offsets[t] = low;
  }
}

// Values in the order of their keys, of which the lowest `bits` differ; equal keys keep their order.
template <typename Key>
std::tuple<at::Tensor, at::Tensor> sorted_by(const at::Tensor& keys, const at::Tensor& values, int bits) {
  at::Tensor sorted_keys = at::empty(keys.sizes(), keys.options()), sorted_values = at::empty(values.sizes(), values.options());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto run = [&](void* scratch, size_t& bytes) {
    C10_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys.const_data_ptr<Key>(), sorted_keys.mutable_data_ptr<Key>(), values.const_data_ptr<int32_t>(),
                                                   sorted_values.mutable_data_ptr<int32_t>(), keys.numel(), 0, bits, stream));
  };
  size_t bytes = 0;
  run(nullptr, bytes);
  at::Tensor scratch = at::empty({int64_t(bytes)}, keys.options().dtype(at::kByte));
  run(scratch.mutable_data_ptr(), bytes);
  return {sorted_keys, sorted_values};
}

// Running sums, and the last of them on the host.
std::tuple<at::Tensor, int64_t> summed_up(const at::Tensor& counts) {
  at::Tensor ends = at::empty(counts.sizes(), counts.options());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto run = [&](void* scratch, size_t& bytes) {
    C10_CUDA_CHECK(cub::DeviceScan::InclusiveSum(scratch, bytes, counts.const_data_ptr<int64_t>(), ends.mutable_data_ptr<int64_t>(), counts.numel(), stream));
  };
  size_t bytes = 0;
  run(nullptr, bytes);
  at::Tensor scratch = at::empty({int64_t(bytes)}, counts.options().dtype(at::kByte));
  run(scratch.mutable_data_ptr(), bytes);
  int64_t total = 0;
  C10_CUDA_CHECK(cudaMemcpyAsync(&total, ends.const_data_ptr<int64_t>() + counts.numel() - 1, sizeof(total), cudaMemcpyDeviceToHost, stream));
  C10_CUDA_CHECK(cudaStreamSynchronize(stream));
  return {ends, total};
}

int bits_of(int64_t count) {
  int bits = 1;
  while (int64_t(1) << bits < count) ++bits;
  return bits;
}

std::tuple<at::Tensor, at::Tensor> splat_bins_cuda(const at::Tensor& mean_, const at::Tensor& extent_, const at::Tensor& depth_, int64_t height, int64_t width,
                                                   int64_t tile) {
  splat_bins_checks(mean_, extent_, depth_, height, width, tile);
  const c10::cuda::CUDAGuard guard(mean_.device());
  const at::Tensor mean = mean_.contiguous(), extent = extent_.contiguous(), depth = depth_.contiguous();
  const int64_t views = mean.size(0), per_view = mean.size(1), gaussians = views * per_view;
  const int64_t rows = (height + tile - 1) / tile, columns = (width + tile - 1) / tile, tiles = views * rows * columns;
  TORCH_CHECK_VALUE(tiles < (int64_t(1) << 31), "splat: views times tiles must stay below 2^31");
  const auto integers = mean.options().dtype(at::kInt);
  at::Tensor offsets = at::zeros({tiles + 1}, mean.options().dtype(at::kLong)), entries = at::empty({0}, integers);
  if (gaussians == 0) return {entries, offsets};
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat_bins", [&] {
    const SplatBoxes<scalar_t> boxes{mean.const_data_ptr<scalar_t>(), extent.const_data_ptr<scalar_t>(), depth.const_data_ptr<scalar_t>(), height, width, tile};
    const at::Tensor order = std::get<1>(sorted_by<scalar_t>(depth.flatten(), at::arange(gaussians, integers), int(8 * sizeof(scalar_t))));
    at::Tensor counts = at::empty({gaussians}, mean.options().dtype(at::kLong));
    THREEDGEN_LAUNCH(gaussians, splat_count_tiles<scalar_t>, boxes, order.const_data_ptr<int32_t>(), counts.mutable_data_ptr<int64_t>(), gaussians);
    const auto [ends, total] = summed_up(counts);
    if (total == 0) return;
    at::Tensor number = at::empty({total}, integers), unsorted = at::empty({total}, integers);
    THREEDGEN_LAUNCH(gaussians, splat_write_entries<scalar_t>, boxes, order.const_data_ptr<int32_t>(), ends.template const_data_ptr<int64_t>(),
                     number.mutable_data_ptr<int32_t>(), unsorted.mutable_data_ptr<int32_t>(), gaussians, per_view, rows, columns);
    at::Tensor sorted;
    std::tie(sorted, entries) = sorted_by<int32_t>(number, unsorted, bits_of(tiles));
    THREEDGEN_LAUNCH(tiles + 1, splat_tile_offsets, sorted.const_data_ptr<int32_t>(), total, offsets.mutable_data_ptr<int64_t>(), tiles);
  });
  return {entries, offsets};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) { m.impl("splat_bins", &splat_bins_cuda); }

}  // namespace
}  // namespace threedgen
