// Checks of the operator's arguments, for host code of both devices.
#pragma once

#include "common/barycentric_checks.h"

namespace threedgen {

inline void interpolate_checks(const at::Tensor& attributes, const at::Tensor& faces, const at::Tensor& face, const at::Tensor& weights) {
  mesh_image_checks(faces, face);
  TORCH_CHECK_VALUE(attributes.dim() == 3 && attributes.size(0) == face.size(0), "attributes must be [", face.size(0), ",V,C], got ", attributes.sizes());
  per_pixel_check("barycentric", weights, face, 3, attributes.scalar_type());
}

// Attributes with dense rows; those that all images share (a stride of 0 between images) stay shared.
inline at::Tensor dense_rows(const at::Tensor& attributes) {
  if (attributes.size(0) == 0 || attributes.stride(0) != 0) return attributes.contiguous();
  return attributes.select(0, 0).contiguous().unsqueeze(0).expand(attributes.sizes());
}

}  // namespace threedgen
