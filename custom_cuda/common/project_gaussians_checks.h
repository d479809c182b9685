// Checks of the operators' arguments, for host code of both devices.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace threedgen {

inline void project_gaussians_checks(const at::Tensor& means, const at::Tensor& axes, const at::Tensor& turn, const at::Tensor& eye, const at::Tensor& focal,
                                     int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(means.dim() == 2 && means.size(1) == 3, "project_gaussians: means must be [N,3], got ", means.sizes());
  TORCH_CHECK_VALUE(axes.dim() == 3 && axes.size(0) == means.size(0) && axes.size(1) == 3 && axes.size(2) == 3, "project_gaussians: axes must be [N,3,3], got ", axes.sizes());
  TORCH_CHECK_VALUE(turn.dim() == 3 && turn.size(1) == 3 && turn.size(2) == 3, "project_gaussians: turn must be [B,3,3], got ", turn.sizes());
  TORCH_CHECK_VALUE(eye.dim() == 2 && eye.size(0) == turn.size(0) && eye.size(1) == 3, "project_gaussians: eye must be [B,3], got ", eye.sizes());
  TORCH_CHECK_VALUE(focal.dim() == 1 && focal.size(0) == turn.size(0), "project_gaussians: focal must be [B], got ", focal.sizes());
  for (const auto* tensor : {&axes, &turn, &eye, &focal})
    TORCH_CHECK_VALUE(tensor->scalar_type() == means.scalar_type(), "project_gaussians: all must have the dtype of means");
  TORCH_CHECK_VALUE(height > 0 && width > 0, "project_gaussians: the image must have at least one pixel, got ", height, " x ", width);
}

inline void project_gaussians_backward_checks(const at::Tensor& grad_mean, const at::Tensor& grad_conic, const at::Tensor& grad_depth, const at::Tensor& grad_shrink,
                                              const at::Tensor& means, const at::Tensor& turn) {
  const int64_t views = turn.size(0), gaussians = means.size(0);
  TORCH_CHECK_VALUE(grad_mean.sizes() == at::IntArrayRef({views, gaussians, 2}), "project_gaussians_backward: grad_mean must be [B,N,2], got ", grad_mean.sizes());
  TORCH_CHECK_VALUE(grad_conic.sizes() == at::IntArrayRef({views, gaussians, 3}), "project_gaussians_backward: grad_conic must be [B,N,3], got ", grad_conic.sizes());
  for (const auto* tensor : {&grad_depth, &grad_shrink})
    TORCH_CHECK_VALUE(tensor->sizes() == at::IntArrayRef({views, gaussians}), "project_gaussians_backward: one value a view and Gaussian is needed, got ", tensor->sizes());
  for (const auto* tensor : {&grad_mean, &grad_conic, &grad_depth, &grad_shrink})
    TORCH_CHECK_VALUE(tensor->scalar_type() == means.scalar_type(), "project_gaussians_backward: all must have the dtype of means");
}

}  // namespace threedgen
