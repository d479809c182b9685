// Checks of the operator's arguments, for host code of both devices.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace threedgen {

inline void march_checks(const at::Tensor& origins, const at::Tensor& directions, const at::Tensor& near, const at::Tensor& far,
                         const at::Tensor& occupancy, const at::Tensor& jitter, double step) {
  const int64_t rays = origins.size(0);
  for (const auto* rows : {&origins, &directions})
    TORCH_CHECK_VALUE(rows->dim() == 2 && rows->size(0) == rays && rows->size(1) == 3, "march_rays: origins and directions must be [R,3]");
  for (const auto* values : {&near, &far, &jitter})
    TORCH_CHECK_VALUE(values->dim() == 1 && values->size(0) == rays, "march_rays: near, far and jitter must be [R]");
  for (const auto* values : {&directions, &near, &far, &jitter})
    TORCH_CHECK_VALUE(values->scalar_type() == origins.scalar_type(), "march_rays: all rays must have one dtype");
  TORCH_CHECK_VALUE(occupancy.scalar_type() == at::kBool && occupancy.dim() == 3 && occupancy.size(0) > 0 && occupancy.size(0) == occupancy.size(1) &&
                        occupancy.size(0) == occupancy.size(2) && occupancy.size(0) <= 4096,
                    "march_rays: occupancy must be bool [G,G,G] with G at most 4096, got ", occupancy.sizes());
  TORCH_CHECK_VALUE(step > 0, "march_rays: step must be positive, got ", step);
}

}  // namespace threedgen
