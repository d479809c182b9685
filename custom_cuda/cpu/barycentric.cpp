// Backward, a task owns an image: the faces of its pixels share vertices, and one order of additions gives the same bits always.
#include "common/barycentric.h"

#include <algorithm>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/barycentric_checks.h"
#include "cpu/parallel.h"

namespace threedgen {
namespace {

constexpr int64_t chunk = 4096;  // pixels of a task

at::Tensor barycentric_cpu(const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_) {
  barycentric_checks(clip_, faces_, face_);
  const at::Tensor clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  const int64_t vertices = clip.size(1), height = face.size(1), width = face.size(2), pixels = face.numel();
  at::Tensor weights = at::empty({face.size(0), height, width, 3}, clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "barycentric", [&] {
    const auto* position = clip.const_data_ptr<scalar_t>();
    const auto *index = faces.const_data_ptr<int64_t>(), *seen = face.const_data_ptr<int64_t>();
    auto* out = weights.mutable_data_ptr<scalar_t>();
    parallel_tasks((pixels + chunk - 1) / chunk, [&](int64_t task) {
      for (int64_t n = task * chunk; n < std::min(pixels, (task + 1) * chunk); ++n) {
        const int64_t* corner = corners_of(index, faces.size(0), vertices, seen[n]);
        out[3 * n] = out[3 * n + 1] = out[3 * n + 2] = 0;
        if (corner == nullptr) continue;
        const Vector2 p = centre_of(n / width % height, n % width, height, width);
        const FaceAtPixel at = face_at_pixel(position + n / (height * width) * vertices * 4, corner, p);
        for (int k = 0; k < 3; ++k) out[3 * n + k] = static_cast<scalar_t>(at.weight[k]);
      }
    });
  });
  return weights;
}

template <typename T>
void barycentric_backward_image(const T* grad, const T* clip, const int64_t* faces, const int64_t* face, int64_t face_count, int64_t vertices,
                                int64_t height, int64_t width, T* grad_clip) {
  for (int64_t n = 0; n < height * width; ++n) {
    const int64_t* corner = corners_of(faces, face_count, vertices, face[n]);
    if (corner == nullptr) continue;
    const Vector2 p = centre_of(n / width, n % width, height, width);
    ClipGradient part[3];
    face_at_pixel_backward(face_at_pixel(clip, corner, p), grad + 3 * n, p, part);
    for (int k = 0; k < 3; ++k) {
      T* to = grad_clip + 4 * corner[k];
      to[0] += static_cast<T>(part[k].x), to[1] += static_cast<T>(part[k].y), to[3] += static_cast<T>(part[k].w);
    }
  }
}

at::Tensor barycentric_backward_cpu(const at::Tensor& grad_, const at::Tensor& clip_, const at::Tensor& faces_, const at::Tensor& face_) {
  barycentric_checks(clip_, faces_, face_);
  per_pixel_check("barycentric_backward: grad", grad_, face_, 3, clip_.scalar_type());
  const at::Tensor grad = grad_.contiguous(), clip = clip_.contiguous(), faces = faces_.contiguous(), face = face_.contiguous();
  const int64_t vertices = clip.size(1), height = face.size(1), width = face.size(2), pixels = height * width;
  at::Tensor grad_clip = at::zeros(clip.sizes(), clip.options());
  AT_DISPATCH_FLOATING_TYPES(clip.scalar_type(), "barycentric_backward", [&] {
    const auto *g = grad.const_data_ptr<scalar_t>(), *position = clip.const_data_ptr<scalar_t>();
    auto* out = grad_clip.mutable_data_ptr<scalar_t>();
    parallel_tasks(face.size(0), [&](int64_t image) {
      barycentric_backward_image(g + image * pixels * 3, position + image * vertices * 4, faces.const_data_ptr<int64_t>(),
                                 face.const_data_ptr<int64_t>() + image * pixels, faces.size(0), vertices, height, width, out + image * vertices * 4);
    });
  });
  return grad_clip;
}

TORCH_LIBRARY_IMPL(threedgen, CPU, m) {
  m.impl("barycentric", &barycentric_cpu);
  m.impl("barycentric_backward", &barycentric_backward_cpu);
}

}  // namespace
}  // namespace threedgen
