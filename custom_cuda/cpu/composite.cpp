#include <algorithm>
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/composite.h"
#include "common/composite_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 256;  // rays of a task

// Every sample must belong to one ray, or the kernels would leave memory unwritten or write beside it.
void check_offsets(const at::Tensor& offsets, int64_t samples) {
  const auto* offset = offsets.const_data_ptr<int64_t>();
  const int64_t rays = offsets.size(0) - 1;
  TORCH_CHECK_VALUE(offset[0] == 0 && offset[rays] == samples, "composite: offsets must go from 0 to the ", samples, " samples");
  TORCH_CHECK_VALUE(std::is_sorted(offset, offset + rays + 1), "composite: offsets must not decrease");
}

template <typename Ray>
void for_each_ray(int64_t rays, const Ray& ray) {
  parallel_tasks((rays + chunk - 1) / chunk, [&](int64_t task) {
    for (int64_t r = task * chunk; r < std::min(rays, (task + 1) * chunk); ++r) ray(r);
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> composite(const at::Tensor& sigma_, const at::Tensor& features_, const at::Tensor& offsets_, double step) {
  composite_checks(sigma_, features_, offsets_);
  const at::Tensor sigma = sigma_.contiguous(), features = features_.contiguous(), offsets = offsets_.contiguous();
  const int64_t rays = offsets.size(0) - 1, channels = features.size(1);
  check_offsets(offsets, sigma.size(0));
  at::Tensor out = at::empty({rays, channels}, sigma.options()), transmittance = at::empty({rays}, sigma.options()), weights = at::empty(sigma.sizes(), sigma.options());
  const auto* offset = offsets.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(sigma.scalar_type(), "composite", [&] {
    const auto *s = sigma.const_data_ptr<scalar_t>(), *f = features.const_data_ptr<scalar_t>();
    auto *o = out.mutable_data_ptr<scalar_t>(), *t = transmittance.mutable_data_ptr<scalar_t>(), *w = weights.mutable_data_ptr<scalar_t>();
    for_each_ray(rays, [&](int64_t r) {
      const int64_t begin = offset[r];
      t[r] = composite_ray(s + begin, f + begin * channels, offset[r + 1] - begin, channels, scalar_t(step), o + r * channels, w + begin);
    });
  });
  return {out, transmittance, weights};
}

std::tuple<at::Tensor, at::Tensor> composite_backward(const at::Tensor& grad_out_, const at::Tensor& grad_transmittance_, const at::Tensor& grad_weights_,
                                                      const at::Tensor& sigma_, const at::Tensor& features_, const at::Tensor& offsets_,
                                                      const at::Tensor& transmittance_, double step) {
  composite_backward_checks(grad_out_, grad_transmittance_, grad_weights_, sigma_, features_, offsets_, transmittance_);
  const at::Tensor grad_out = grad_out_.contiguous(), grad_transmittance = grad_transmittance_.contiguous(), grad_weights = grad_weights_.contiguous();
  const at::Tensor sigma = sigma_.contiguous(), features = features_.contiguous(), offsets = offsets_.contiguous(), transmittance = transmittance_.contiguous();
  const int64_t rays = offsets.size(0) - 1, channels = features.size(1);
  check_offsets(offsets, sigma.size(0));
  at::Tensor grad_sigma = at::empty(sigma.sizes(), sigma.options()), grad_features = at::empty(features.sizes(), features.options());
  const auto* offset = offsets.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(sigma.scalar_type(), "composite_backward", [&] {
    const auto *go = grad_out.const_data_ptr<scalar_t>(), *gt = grad_transmittance.const_data_ptr<scalar_t>(), *gw = grad_weights.const_data_ptr<scalar_t>();
    const auto *s = sigma.const_data_ptr<scalar_t>(), *f = features.const_data_ptr<scalar_t>(), *t = transmittance.const_data_ptr<scalar_t>();
    auto *gs = grad_sigma.mutable_data_ptr<scalar_t>(), *gf = grad_features.mutable_data_ptr<scalar_t>();
    for_each_ray(rays, [&](int64_t r) {
      const int64_t begin = offset[r], count = offset[r + 1] - begin;
      composite_ray_backward(go + r * channels, gt[r], gw + begin, s + begin, f + begin * channels, count, channels, t[r], scalar_t(step), gs + begin, gf + begin * channels);
    });
  });
  return {grad_sigma, grad_features};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("composite", &composite);
  m.impl("composite_backward", &composite_backward);
}

}  // namespace
}  // namespace threedgen
