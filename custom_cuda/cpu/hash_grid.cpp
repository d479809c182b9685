#include <tuple>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/hash_grid_checks.h"
#include "cpu/hash_grid_kernels.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 1024;  // points whose encodings stay in the cache while the levels are visited

template <typename T>
const HashGridKernelsOf<T>& kernels_for(int64_t features) {
  const auto& kernels = select_hash_grid_kernels();
  const int entry = features == 1 ? 0 : features == 2 ? 1 : features == 4 ? 2 : 3;
  if constexpr (std::is_same_v<T, float>)
    return kernels.f32[entry];
  else
    return kernels.f64[entry];
}

at::Tensor hash_grid(const at::Tensor& x_, const at::Tensor& table_, at::IntArrayRef resolutions, at::IntArrayRef offsets) {
  const auto levels = hash_grid_levels(x_, table_, resolutions, offsets);
  const at::Tensor x = x_.contiguous(), table = table_.contiguous();
  const int64_t points = x.size(0), features = table.size(1), stride = features * int64_t(levels.size());
  at::Tensor out = at::empty({points, stride}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "hash_grid", [&] {
    const auto& kernels = kernels_for<scalar_t>(features);
    const auto *x_data = x.const_data_ptr<scalar_t>(), *table_data = table.const_data_ptr<scalar_t>();
    auto* out_data = out.mutable_data_ptr<scalar_t>();
    parallel_tasks((points + chunk - 1) / chunk, [&](int64_t task) {
      const int64_t begin = task * chunk, end = std::min(points, begin + chunk);
      for (size_t l = 0; l < levels.size(); ++l) kernels.forward(levels[l], x_data, table_data, out_data, stride, l * features, begin, end);
    });
  });
  return out;
}

// Levels are the parallel axis of the gradient to the table: each owns its rows, so there is nothing to add up between threads.
std::tuple<at::Tensor, at::Tensor> hash_grid_backward(
    const at::Tensor& grad_, const at::Tensor& x_, const at::Tensor& table_, at::IntArrayRef resolutions, at::IntArrayRef offsets, bool need_x) {
  const auto levels = hash_grid_levels(x_, table_, resolutions, offsets);
  const at::Tensor grad = grad_.contiguous(), x = x_.contiguous(), table = table_.contiguous();
  const int64_t points = x.size(0), features = table.size(1), stride = features * int64_t(levels.size());
  hash_grid_backward_checks(grad, x, table, levels.size());
  at::Tensor grad_x = at::zeros({need_x ? points : 0, 3}, x.options());
  at::Tensor grad_table = at::zeros(table.sizes(), table.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "hash_grid_backward", [&] {
    const auto& kernels = kernels_for<scalar_t>(features);
    const auto *x_data = x.const_data_ptr<scalar_t>(), *table_data = table.const_data_ptr<scalar_t>(), *grad_data = grad.const_data_ptr<scalar_t>();
    auto *grad_x_data = grad_x.mutable_data_ptr<scalar_t>(), *grad_table_data = grad_table.mutable_data_ptr<scalar_t>();
    parallel_tasks(levels.size(), [&](int64_t l) {
      kernels.backward_table(levels[l], x_data, grad_data, grad_table_data, stride, l * features, 0, points);
    });
    if (!need_x) return;
    parallel_tasks((points + chunk - 1) / chunk, [&](int64_t task) {
      const int64_t begin = task * chunk, end = std::min(points, begin + chunk);
      for (size_t l = 0; l < levels.size(); ++l)
        kernels.backward_x(levels[l], x_data, table_data, grad_data, grad_x_data, stride, l * features, begin, end);
    });
  });
  return {grad_x, grad_table};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("hash_grid", &hash_grid);
  m.impl("hash_grid_backward", &hash_grid_backward);
}

}  // namespace
}  // namespace threedgen
