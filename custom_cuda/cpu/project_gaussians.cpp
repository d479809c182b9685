// A task owns some Gaussians and goes through all views of each, so that gradients are always added in the same order.
#include "common/project_gaussians.h"

#include <algorithm>
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/project_gaussians_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 1024;  // Gaussians of a task

struct Views {
  at::Tensor turn, eye, focal;
  int64_t height, width;

  Views(const at::Tensor& turn_, const at::Tensor& eye_, const at::Tensor& focal_, int64_t height_, int64_t width_)
      : turn(turn_.contiguous()), eye(eye_.contiguous()), focal(focal_.contiguous()), height(height_), width(width_) {}
  int64_t count() const { return turn.size(0); }
  template <typename T>
  PinholeView<T> at(int64_t view) const {
    return {turn.const_data_ptr<T>() + 9 * view, eye.const_data_ptr<T>() + 3 * view, focal.const_data_ptr<T>()[view], T(width), T(height)};
  }
};

template <typename Work>
void for_each_gaussian(int64_t gaussians, const Work& work) {
  parallel_tasks((gaussians + chunk - 1) / chunk, [&](int64_t task) {
    for (int64_t n = task * chunk; n < std::min(gaussians, (task + 1) * chunk); ++n) work(n);
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> project_gaussians(const at::Tensor& means_, const at::Tensor& axes_, const at::Tensor& turn,
                                                                             const at::Tensor& eye, const at::Tensor& focal, int64_t height, int64_t width) {
  project_gaussians_checks(means_, axes_, turn, eye, focal, height, width);
  const at::Tensor means = means_.contiguous(), axes = axes_.contiguous();
  const Views views(turn, eye, focal, height, width);
  const int64_t gaussians = means.size(0), count = views.count();
  at::Tensor mean = at::empty({count, gaussians, 2}, means.options()), conic = at::empty({count, gaussians, 3}, means.options());
  at::Tensor depth = at::empty({count, gaussians}, means.options()), shrink = at::empty({count, gaussians}, means.options());
  AT_DISPATCH_FLOATING_TYPES(means.scalar_type(), "project_gaussians", [&] {
    const auto *position = means.const_data_ptr<scalar_t>(), *axis = axes.const_data_ptr<scalar_t>();
    auto *m = mean.mutable_data_ptr<scalar_t>(), *q = conic.mutable_data_ptr<scalar_t>();
    auto *d = depth.mutable_data_ptr<scalar_t>(), *s = shrink.mutable_data_ptr<scalar_t>();
    for_each_gaussian(gaussians, [&](int64_t n) {
      for (int64_t b = 0; b < count; ++b) {
        const auto view = views.at<scalar_t>(b);
        const auto image = gaussian_image(gaussian_in_view(position + 3 * n, axis + 9 * n, view), view);
        const int64_t i = b * gaussians + n;
        std::copy_n(image.mean, 2, m + 2 * i), std::copy_n(image.conic, 3, q + 3 * i);
        d[i] = image.depth, s[i] = image.shrink;
      }
    });
  });
  return {mean, conic, depth, shrink};
}

std::tuple<at::Tensor, at::Tensor> project_gaussians_backward(const at::Tensor& grad_mean_, const at::Tensor& grad_conic_, const at::Tensor& grad_depth_,
                                                              const at::Tensor& grad_shrink_, const at::Tensor& means_, const at::Tensor& axes_,
                                                              const at::Tensor& turn, const at::Tensor& eye, const at::Tensor& focal, int64_t height,
                                                              int64_t width) {
  project_gaussians_checks(means_, axes_, turn, eye, focal, height, width);
  project_gaussians_backward_checks(grad_mean_, grad_conic_, grad_depth_, grad_shrink_, means_, turn);
  const at::Tensor grad_mean = grad_mean_.contiguous(), grad_conic = grad_conic_.contiguous(), grad_depth = grad_depth_.contiguous();
  const at::Tensor grad_shrink = grad_shrink_.contiguous(), means = means_.contiguous(), axes = axes_.contiguous();
  const Views views(turn, eye, focal, height, width);
  const int64_t gaussians = means.size(0), count = views.count();
  at::Tensor to_means = at::zeros(means.sizes(), means.options()), to_axes = at::zeros(axes.sizes(), means.options());
  AT_DISPATCH_FLOATING_TYPES(means.scalar_type(), "project_gaussians_backward", [&] {
    const auto *position = means.const_data_ptr<scalar_t>(), *axis = axes.const_data_ptr<scalar_t>();
    const auto *m = grad_mean.const_data_ptr<scalar_t>(), *q = grad_conic.const_data_ptr<scalar_t>();
    const auto *d = grad_depth.const_data_ptr<scalar_t>(), *s = grad_shrink.const_data_ptr<scalar_t>();
    auto *to_mean = to_means.mutable_data_ptr<scalar_t>(), *to_axis = to_axes.mutable_data_ptr<scalar_t>();
    for_each_gaussian(gaussians, [&](int64_t n) {
      for (int64_t b = 0; b < count; ++b) {
        const auto view = views.at<scalar_t>(b);
        const int64_t i = b * gaussians + n;
        const GaussianImage<scalar_t> grad = {{m[2 * i], m[2 * i + 1]}, {q[3 * i], q[3 * i + 1], q[3 * i + 2]}, d[i], s[i]};
        const auto seen = gaussian_in_view(position + 3 * n, axis + 9 * n, view);
        gaussian_image_backward(seen, axis + 9 * n, view, grad, to_mean + 3 * n, to_axis + 9 * n);
      }
    });
  });
  return {to_means, to_axes};
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("project_gaussians", &project_gaussians);
  m.impl("project_gaussians_backward", &project_gaussians_backward);
}

}  // namespace
}  // namespace threedgen
