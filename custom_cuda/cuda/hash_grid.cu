// Forward: a thread per point and level. Gradient to positions: a thread per point, which adds up its levels in order, so it is
// deterministic. Gradient to the table: atomic additions, whose order varies from run to run, so its last bits do too; sorting
// the 8 N L contributions by row would cost several times the whole operator.
#include <tuple>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/hash_grid.h"
#include "common/hash_grid_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

constexpr int max_levels = 64;

struct Levels {  // by value, as a kernel's argument
  HashGridLevel level[max_levels];
  int count;
};

Levels pack(const std::vector<HashGridLevel>& levels) {
  TORCH_CHECK_VALUE(levels.size() <= max_levels, "hash_grid: at most ", max_levels, " levels on CUDA, got ", levels.size());
  Levels packed{};
  for (const auto& level : levels) packed.level[packed.count++] = level;
  return packed;
}

template <typename T>
struct Corners {
  AxisCell<T> axis[3];

  __device__ Corners(const HashGridLevel& level, const T* x) {
    for (int a = 0; a < 3; ++a) axis[a] = hash_grid_axis(x[a], level.resolution);
  }
  __device__ int64_t row(const HashGridLevel& level, uint32_t corner) const {
    const uint32_t x = axis[0].cell + (corner & 1), y = axis[1].cell + (corner >> 1 & 1), z = axis[2].cell + (corner >> 2);
    return level.offset + (level.dense ? hash_grid_row<true>(level, x, y, z) : hash_grid_row<false>(level, x, y, z));
  }
  __device__ T weight_along(int a, uint32_t corner) const { return (corner >> a & 1) ? axis[a].fraction : 1 - axis[a].fraction; }
  __device__ T weight(uint32_t corner) const { return weight_along(0, corner) * weight_along(1, corner) * weight_along(2, corner); }
};

template <typename T, int features>
__global__ void hash_grid_forward(Levels levels, const T* x, const T* table, T* out, int64_t points) {
  for (int64_t thread = first_thread(); thread < points * levels.count; thread += thread_stride()) {
    const int64_t point = thread / levels.count;
    const HashGridLevel& level = levels.level[thread % levels.count];
    const Corners<T> corners(level, x + 3 * point);
    T sum[features] = {};
    for (uint32_t corner = 0; corner < 8; ++corner) {
      const T* entry = table + corners.row(level, corner) * features;
      const T weight = corners.weight(corner);
      for (int f = 0; f < features; ++f) sum[f] += weight * entry[f];
    }
    for (int f = 0; f < features; ++f) out[thread * features + f] = sum[f];
  }
}

template <typename T, int features>
__global__ void hash_grid_backward_table(Levels levels, const T* x, const T* grad, T* grad_table, int64_t points) {
  for (int64_t thread = first_thread(); thread < points * levels.count; thread += thread_stride()) {
    const int64_t point = thread / levels.count;
    const HashGridLevel& level = levels.level[thread % levels.count];
    const Corners<T> corners(level, x + 3 * point);
    for (uint32_t corner = 0; corner < 8; ++corner) {
      T* entry = grad_table + corners.row(level, corner) * features;
      const T weight = corners.weight(corner);
      for (int f = 0; f < features; ++f) atomicAdd(entry + f, weight * grad[thread * features + f]);
    }
  }
}

template <typename T, int features>
__global__ void hash_grid_backward_x(Levels levels, const T* x, const T* table, const T* grad, T* grad_x, int64_t points) {
  for (int64_t point = first_thread(); point < points; point += thread_stride()) {
    T sum[3] = {};
    for (int l = 0; l < levels.count; ++l) {
      const HashGridLevel& level = levels.level[l];
      const Corners<T> corners(level, x + 3 * point);
      const T* g = grad + (point * levels.count + l) * features;
      const T scale = T(level.resolution);
      for (uint32_t corner = 0; corner < 8; ++corner) {
        const T* entry = table + corners.row(level, corner) * features;
        T dot = 0;
        for (int f = 0; f < features; ++f) dot += g[f] * entry[f];
        for (int a = 0; a < 3; ++a) {
          const T others = corners.weight_along((a + 1) % 3, corner) * corners.weight_along((a + 2) % 3, corner);
          sum[a] += ((corner >> a & 1) ? scale : -scale) * others * dot;
        }
      }
    }
    for (int a = 0; a < 3; ++a) {
      const T coordinate = x[3 * point + a];
      grad_x[3 * point + a] = coordinate < 0 || coordinate > 1 ? T(0) : sum[a];  // outside [0,1] the encoding is constant
    }
  }
}

// Calls function.template operator()<features>() with the number of features as a constant.
template <typename Function>
void with_features(int64_t features, const Function& function) {
  if (features == 1) function.template operator()<1>();
  if (features == 2) function.template operator()<2>();
  if (features == 4) function.template operator()<4>();
  if (features == 8) function.template operator()<8>();
}

at::Tensor hash_grid(const at::Tensor& x_, const at::Tensor& table_, at::IntArrayRef resolutions, at::IntArrayRef offsets) {
  const Levels levels = pack(hash_grid_levels(x_, table_, resolutions, offsets));
  const c10::cuda::CUDAGuard guard(x_.device());
  const at::Tensor x = x_.contiguous(), table = table_.contiguous();
  const int64_t points = x.size(0);
  at::Tensor out = at::empty({points, levels.count * table.size(1)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "hash_grid", [&] {
    with_features(table.size(1), [&]<int features>() {
      THREEDGEN_LAUNCH(points * levels.count, (hash_grid_forward<scalar_t, features>), levels, x.const_data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(),
                       out.mutable_data_ptr<scalar_t>(), points);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> hash_grid_backward(const at::Tensor& grad_, const at::Tensor& x_, const at::Tensor& table_,
                                                      at::IntArrayRef resolutions, at::IntArrayRef offsets, bool need_x) {
  const Levels levels = pack(hash_grid_levels(x_, table_, resolutions, offsets));
  const c10::cuda::CUDAGuard guard(x_.device());
  const at::Tensor grad = grad_.contiguous(), x = x_.contiguous(), table = table_.contiguous();
  const int64_t points = x.size(0);
  hash_grid_backward_checks(grad, x, table, levels.count);
  at::Tensor grad_x = at::empty({need_x ? points : 0, 3}, x.options()), grad_table = at::zeros(table.sizes(), table.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "hash_grid_backward", [&] {
    with_features(table.size(1), [&]<int features>() {
      THREEDGEN_LAUNCH(points * levels.count, (hash_grid_backward_table<scalar_t, features>), levels, x.const_data_ptr<scalar_t>(),
                       grad.const_data_ptr<scalar_t>(), grad_table.mutable_data_ptr<scalar_t>(), points);
      if (need_x)
        THREEDGEN_LAUNCH(points, (hash_grid_backward_x<scalar_t, features>), levels, x.const_data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(),
                         grad.const_data_ptr<scalar_t>(), grad_x.mutable_data_ptr<scalar_t>(), points);
    });
  });
  return {grad_x, grad_table};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("hash_grid", &hash_grid);
  m.impl("hash_grid_backward", &hash_grid_backward);
}

}  // namespace
}  // namespace threedgen
