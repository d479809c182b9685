// Checks of the operator's arguments, for host code of both devices.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace threedgen {

inline void composite_checks(const at::Tensor& sigma, const at::Tensor& features, const at::Tensor& offsets) {
  TORCH_CHECK_VALUE(sigma.dim() == 1, "composite: sigma must be [S], got ", sigma.sizes());
  TORCH_CHECK_VALUE(features.dim() == 2 && features.size(0) == sigma.size(0), "composite: features must be [", sigma.size(0), ",C], got ", features.sizes());
  TORCH_CHECK_VALUE(features.scalar_type() == sigma.scalar_type(), "composite: sigma is ", sigma.scalar_type(), " but features is ", features.scalar_type());
  TORCH_CHECK_VALUE(offsets.scalar_type() == at::kLong && offsets.dim() == 1 && offsets.size(0) > 0, "composite: offsets must be int64 [R+1]");
}

inline void composite_backward_checks(const at::Tensor& grad_out, const at::Tensor& grad_transmittance, const at::Tensor& grad_weights,
                                      const at::Tensor& sigma, const at::Tensor& features, const at::Tensor& offsets, const at::Tensor& transmittance) {
  composite_checks(sigma, features, offsets);
  const int64_t rays = offsets.size(0) - 1;
  TORCH_CHECK_VALUE(grad_out.dim() == 2 && grad_out.size(0) == rays && grad_out.size(1) == features.size(1), "composite_backward: grad_out must be [R,C]");
  for (const auto* per_ray : {&grad_transmittance, &transmittance})
    TORCH_CHECK_VALUE(per_ray->dim() == 1 && per_ray->size(0) == rays, "composite_backward: one transmittance a ray is needed");
  TORCH_CHECK_VALUE(grad_weights.sizes() == sigma.sizes(), "composite_backward: grad_weights must be [S]");
  for (const auto* tensor : {&grad_out, &grad_transmittance, &grad_weights, &transmittance})
    TORCH_CHECK_VALUE(tensor->scalar_type() == sigma.scalar_type(), "composite_backward: all must have the dtype of sigma");
}

}  // namespace threedgen
