// A thread per Gaussian goes through all views, so that gradients are always added in the same order: no atomics.
#include "common/project_gaussians.h"

#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/project_gaussians_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

template <typename T>
struct ProjectionScene {
  const T *means, *axes, *turn, *eye, *focal;
  int64_t gaussians, views, height, width;

  __device__ PinholeView<T> view(int64_t b) const { return {turn + 9 * b, eye + 3 * b, focal[b], T(width), T(height)}; }
};

template <typename T>
__global__ void project_gaussians_forward(ProjectionScene<T> scene, T* mean, T* conic, T* depth, T* shrink) {
  for (int64_t i = first_thread(); i < scene.views * scene.gaussians; i += thread_stride()) {
    const int64_t n = i % scene.gaussians;
    const PinholeView<T> view = scene.view(i / scene.gaussians);
    const GaussianImage<T> image = gaussian_image(gaussian_in_view(scene.means + 3 * n, scene.axes + 9 * n, view), view);
    for (int k = 0; k < 2; ++k) mean[2 * i + k] = image.mean[k];
    for (int k = 0; k < 3; ++k) conic[3 * i + k] = image.conic[k];
    depth[i] = image.depth, shrink[i] = image.shrink;
  }
}

template <typename T>
__global__ void project_gaussians_backward_means(ProjectionScene<T> scene, const T* mean, const T* conic, const T* depth, const T* shrink, T* to_means,
                                                 T* to_axes) {
  for (int64_t n = first_thread(); n < scene.gaussians; n += thread_stride()) {
    T to_mean[3] = {0, 0, 0}, to_axis[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int64_t b = 0; b < scene.views; ++b) {
      const int64_t i = b * scene.gaussians + n;
      const PinholeView<T> view = scene.view(b);
      const GaussianImage<T> grad = {{mean[2 * i], mean[2 * i + 1]}, {conic[3 * i], conic[3 * i + 1], conic[3 * i + 2]}, depth[i], shrink[i]};
      const GaussianInView<T> seen = gaussian_in_view(scene.means + 3 * n, scene.axes + 9 * n, view);
      gaussian_image_backward(seen, scene.axes + 9 * n, view, grad, to_mean, to_axis);
    }
    for (int k = 0; k < 3; ++k) to_means[3 * n + k] = to_mean[k];
    for (int k = 0; k < 9; ++k) to_axes[9 * n + k] = to_axis[k];
  }
}

struct ProjectionTensors {
  at::Tensor means, axes, turn, eye, focal;
  int64_t height, width;

  ProjectionTensors(const at::Tensor& means_, const at::Tensor& axes_, const at::Tensor& turn_, const at::Tensor& eye_, const at::Tensor& focal_,
                    int64_t height_, int64_t width_)
      : means(means_.contiguous()), axes(axes_.contiguous()), turn(turn_.contiguous()), eye(eye_.contiguous()), focal(focal_.contiguous()), height(height_),
        width(width_) {
    project_gaussians_checks(means_, axes_, turn_, eye_, focal_, height_, width_);
  }
  template <typename T>
  ProjectionScene<T> scene() const {
    return {means.const_data_ptr<T>(), axes.const_data_ptr<T>(), turn.const_data_ptr<T>(), eye.const_data_ptr<T>(), focal.const_data_ptr<T>(),
            means.size(0), turn.size(0), height, width};
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> project_gaussians_cuda(const at::Tensor& means, const at::Tensor& axes, const at::Tensor& turn,
                                                                                  const at::Tensor& eye, const at::Tensor& focal, int64_t height, int64_t width) {
  const ProjectionTensors tensors(means, axes, turn, eye, focal, height, width);
  const c10::cuda::CUDAGuard guard(means.device());
  const int64_t gaussians = means.size(0), views = turn.size(0);
  at::Tensor mean = at::empty({views, gaussians, 2}, means.options()), conic = at::empty({views, gaussians, 3}, means.options());
  at::Tensor depth = at::empty({views, gaussians}, means.options()), shrink = at::empty({views, gaussians}, means.options());
  AT_DISPATCH_FLOATING_TYPES(means.scalar_type(), "project_gaussians", [&] {
    THREEDGEN_LAUNCH(views * gaussians, project_gaussians_forward<scalar_t>, tensors.scene<scalar_t>(), mean.mutable_data_ptr<scalar_t>(),
                     conic.mutable_data_ptr<scalar_t>(), depth.mutable_data_ptr<scalar_t>(), shrink.mutable_data_ptr<scalar_t>());
  });
  return {mean, conic, depth, shrink};
}

std::tuple<at::Tensor, at::Tensor> project_gaussians_backward_cuda(const at::Tensor& grad_mean_, const at::Tensor& grad_conic_, const at::Tensor& grad_depth_,
                                                                   const at::Tensor& grad_shrink_, const at::Tensor& means, const at::Tensor& axes,
                                                                   const at::Tensor& turn, const at::Tensor& eye, const at::Tensor& focal, int64_t height,
                                                                   int64_t width) {
  const ProjectionTensors tensors(means, axes, turn, eye, focal, height, width);
  project_gaussians_backward_checks(grad_mean_, grad_conic_, grad_depth_, grad_shrink_, means, turn);
  const c10::cuda::CUDAGuard guard(means.device());
  const at::Tensor grad_mean = grad_mean_.contiguous(), grad_conic = grad_conic_.contiguous(), grad_depth = grad_depth_.contiguous();
  const at::Tensor grad_shrink = grad_shrink_.contiguous();
  at::Tensor to_means = at::empty(means.sizes(), means.options()), to_axes = at::empty(axes.sizes(), means.options());
  AT_DISPATCH_FLOATING_TYPES(means.scalar_type(), "project_gaussians_backward", [&] {
    THREEDGEN_LAUNCH(means.size(0), project_gaussians_backward_means<scalar_t>, tensors.scene<scalar_t>(), grad_mean.const_data_ptr<scalar_t>(),
                     grad_conic.const_data_ptr<scalar_t>(), grad_depth.const_data_ptr<scalar_t>(), grad_shrink.const_data_ptr<scalar_t>(),
                     to_means.mutable_data_ptr<scalar_t>(), to_axes.mutable_data_ptr<scalar_t>());
  });
  return {to_means, to_axes};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("project_gaussians", &project_gaussians_cuda);
  m.impl("project_gaussians_backward", &project_gaussians_backward_cuda);
}

}  // namespace
}  // namespace threedgen
