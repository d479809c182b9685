// Checks of the operator's arguments, for host code of both devices.
#pragma once

#include "common/barycentric_checks.h"
#include "common/silhouettes.h"

namespace threedgen {

inline void silhouettes_checks(const at::Tensor& clip, const at::Tensor& faces, const at::Tensor& face, const at::Tensor& adjacency) {
  barycentric_checks(clip, faces, face);
  TORCH_CHECK_VALUE(adjacency.scalar_type() == at::kLong && adjacency.sizes() == faces.sizes(), "adjacency must be int64 ", faces.sizes(), ", got ", adjacency.sizes());
}

inline MeshSurface mesh_surface(const at::Tensor& clip, const at::Tensor& faces, const at::Tensor& face, const at::Tensor& adjacency) {
  return {faces.const_data_ptr<int64_t>(), adjacency.const_data_ptr<int64_t>(), faces.size(0), clip.size(1), face.size(1), face.size(2)};
}

}  // namespace threedgen
