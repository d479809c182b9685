// Backward, a task owns an image: outlines share vertices, and one order of additions gives the same bits always.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/silhouettes_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

at::Tensor silhouettes_cpu(const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_, const at::Tensor& adjacency_) {
  silhouettes_checks(clip_, faces_, face_, adjacency_);
  const at::Tensor clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous(), adjacency = adjacency_.contiguous();
  const MeshSurface mesh = mesh_surface(clip, faces, face, adjacency);
  at::Tensor shift = at::empty({face.size(0), mesh.height, mesh.width, 2}, clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "silhouettes", [&] {
    const auto* position = clip.const_data_ptr<scalar_t>();
    const auto* seen = face.const_data_ptr<int64_t>();
    auto* out = shift.mutable_data_ptr<scalar_t>();
    parallel_tasks(face.size(0) * mesh.height, [&](int64_t task) {
      const int64_t image = task / mesh.height, row = task % mesh.height;
      for (int64_t column = 0; column < mesh.width; ++column)
        for (int axis = 0; axis < 2; ++axis)
          out[(task * mesh.width + column) * 2 + axis] = static_cast<scalar_t>(shift_value(
              shift_between(position + image * mesh.vertices * 4, mesh, seen + image * mesh.height * mesh.width, row, column, axis)));
    });
  });
  return shift;
}

template <typename T>
void silhouettes_backward_image(const T* grad, const T* clip, const MeshSurface& mesh, const int64_t* face, T* grad_clip) {
  for (int64_t n = 0; n < mesh.height * mesh.width; ++n)
    for (int axis = 0; axis < 2; ++axis) {
      if (grad[2 * n + axis] == 0) continue;
      const Shift shift = shift_between(clip, mesh, face, n / mesh.width, n % mesh.width, axis);
      if (!shift.found) continue;
      ClipGradient part[2];
      shift_backward(shift, clip, grad[2 * n + axis], part[0], part[1]);
      for (int k = 0; k < 2; ++k) {
        T* to = grad_clip + 4 * (k == 0 ? shift.outline.i : shift.outline.j);
        to[0] += static_cast<T>(part[k].x), to[1] += static_cast<T>(part[k].y), to[3] += static_cast<T>(part[k].w);
      }
    }
}

at::Tensor silhouettes_backward_cpu(const at::Tensor& grad_, const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_,
                                    const at::Tensor& adjacency_) {
  silhouettes_checks(clip_, faces_, face_, adjacency_);
  per_pixel_check("silhouettes_backward: grad", grad_, face_, 2, clip_.scalar_type());
  const at::Tensor grad = grad_.contiguous(), clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  const at::Tensor adjacency = adjacency_.contiguous();
  const MeshSurface mesh = mesh_surface(clip, faces, face, adjacency);
  const int64_t pixels = mesh.height * mesh.width, floats = mesh.vertices * 4;
  at::Tensor grad_clip = at::zeros(clip.sizes(), clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "silhouettes_backward", [&] {
    const auto *g = grad.const_data_ptr<scalar_t>(), *position = clip.const_data_ptr<scalar_t>();
    auto* out = grad_clip.mutable_data_ptr<scalar_t>();
    parallel_tasks(face.size(0), [&](int64_t image) {
      silhouettes_backward_image(g + image * pixels * 2, position + image * floats, mesh, face.const_data_ptr<int64_t>() + image * pixels,
                                 out + image * floats);
    });
  });
  return grad_clip;
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("silhouettes", &silhouettes_cpu);
  m.impl("silhouettes_backward", &silhouettes_backward_cpu);
}

}  // namespace
}  // namespace threedgen
