// Checks of the arguments of operators on the pixels of a mesh, for host code of both devices.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace threedgen {

inline void mesh_image_checks(const at::Tensor& faces, const at::Tensor& face) {
  TORCH_CHECK_VALUE(faces.scalar_type() == at::kLong && faces.dim() == 2 && faces.size(1) == 3, "faces must be int64 [F,3], got ", faces.sizes());
  TORCH_CHECK_VALUE(face.scalar_type() == at::kLong && face.dim() == 3, "face must be int64 [B,H,W], got ", face.sizes());
}

inline void barycentric_checks(const at::Tensor& clip, const at::Tensor& faces, const at::Tensor& face) {
  mesh_image_checks(faces, face);
  TORCH_CHECK_VALUE(clip.dim() == 3 && clip.size(0) == face.size(0) && clip.size(2) == 4, "clip must be [", face.size(0), ",V,4], got ", clip.sizes());
}

inline void per_pixel_check(const char* name, const at::Tensor& tensor, const at::Tensor& face, int64_t channels, at::ScalarType dtype) {
  const bool fits = tensor.dim() == 4 && tensor.size(3) == channels && tensor.sizes().slice(0, 3) == face.sizes();
  TORCH_CHECK_VALUE(fits && tensor.scalar_type() == dtype, name, " must be ", dtype, " [B,H,W,", channels, "], got ", tensor.scalar_type(), " ", tensor.sizes());
}

}  // namespace threedgen
