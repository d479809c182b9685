// A thread per ray walks its samples in order: deterministic, and the same arithmetic as on the CPU.
#include <tuple>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/composite.h"
#include "common/composite_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

struct Span {
  int64_t begin, count;
};

// The samples of a ray. Offsets outside the samples are cut off, since checking them on the host would wait for the device.
__device__ Span samples_of(const int64_t* offsets, int64_t ray, int64_t samples) {
  const int64_t begin = max(int64_t(0), min(offsets[ray], samples)), end = max(begin, min(offsets[ray + 1], samples));
  return {begin, end - begin};
}

template <typename T>
__global__ void composite_rays(const T* sigma, const T* features, const int64_t* offsets, T step, T* out, T* transmittance, T* weights, int64_t rays,
                        int64_t samples, int64_t channels) {
  for (int64_t r = first_thread(); r < rays; r += thread_stride()) {
    const Span span = samples_of(offsets, r, samples);
    transmittance[r] = composite_ray(sigma + span.begin, features + span.begin * channels, span.count, channels, step, out + r * channels, weights + span.begin);
  }
}

template <typename T>
__global__ void composite_rays_backward(const T* grad_out, const T* grad_transmittance, const T* grad_weights, const T* sigma, const T* features,
                         const int64_t* offsets, const T* transmittance, T step, T* grad_sigma, T* grad_features, int64_t rays, int64_t samples,
                         int64_t channels) {
  for (int64_t r = first_thread(); r < rays; r += thread_stride()) {
    const Span span = samples_of(offsets, r, samples);
    composite_ray_backward(grad_out + r * channels, grad_transmittance[r], grad_weights + span.begin, sigma + span.begin,
                           features + span.begin * channels, span.count, channels, transmittance[r], step, grad_sigma + span.begin,
                           grad_features + span.begin * channels);
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> composite(const at::Tensor& sigma_, const at::Tensor& features_, const at::Tensor& offsets_, double step) {
  composite_checks(sigma_, features_, offsets_);
  const c10::cuda::CUDAGuard guard(sigma_.device());
  const at::Tensor sigma = sigma_.contiguous(), features = features_.contiguous(), offsets = offsets_.contiguous();
  const int64_t rays = offsets.size(0) - 1, samples = sigma.size(0), channels = features.size(1);
  at::Tensor out = at::empty({rays, channels}, sigma.options()), transmittance = at::empty({rays}, sigma.options());
  at::Tensor weights = at::zeros(sigma.sizes(), sigma.options());  // a sample that no ray owns has none
  AT_DISPATCH_FLOATING_TYPES(sigma.scalar_type(), "composite", [&] {
    THREEDGEN_LAUNCH(rays, composite_rays<scalar_t>, sigma.const_data_ptr<scalar_t>(), features.const_data_ptr<scalar_t>(), offsets.const_data_ptr<int64_t>(),
                     scalar_t(step), out.mutable_data_ptr<scalar_t>(), transmittance.mutable_data_ptr<scalar_t>(), weights.mutable_data_ptr<scalar_t>(),
                     rays, samples, channels);
  });
  return {out, transmittance, weights};
}

std::tuple<at::Tensor, at::Tensor> composite_backward(const at::Tensor& grad_out_, const at::Tensor& grad_transmittance_, const at::Tensor& grad_weights_,
                                                      const at::Tensor& sigma_, const at::Tensor& features_, const at::Tensor& offsets_,
                                                      const at::Tensor& transmittance_, double step) {
  composite_backward_checks(grad_out_, grad_transmittance_, grad_weights_, sigma_, features_, offsets_, transmittance_);
  const c10::cuda::CUDAGuard guard(sigma_.device());
  const at::Tensor grad_out = grad_out_.contiguous(), grad_transmittance = grad_transmittance_.contiguous(), grad_weights = grad_weights_.contiguous();
  const at::Tensor sigma = sigma_.contiguous(), features = features_.contiguous(), offsets = offsets_.contiguous(), transmittance = transmittance_.contiguous();
  const int64_t rays = offsets.size(0) - 1, samples = sigma.size(0), channels = features.size(1);
  at::Tensor grad_sigma = at::zeros(sigma.sizes(), sigma.options()), grad_features = at::zeros(features.sizes(), features.options());
  AT_DISPATCH_FLOATING_TYPES(sigma.scalar_type(), "composite_backward", [&] {
    THREEDGEN_LAUNCH(rays, composite_rays_backward<scalar_t>, grad_out.const_data_ptr<scalar_t>(), grad_transmittance.const_data_ptr<scalar_t>(),
                     grad_weights.const_data_ptr<scalar_t>(), sigma.const_data_ptr<scalar_t>(), features.const_data_ptr<scalar_t>(),
                     offsets.const_data_ptr<int64_t>(), transmittance.const_data_ptr<scalar_t>(), scalar_t(step), grad_sigma.mutable_data_ptr<scalar_t>(),
                     grad_features.mutable_data_ptr<scalar_t>(), rays, samples, channels);
  });
  return {grad_sigma, grad_features};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("composite", &composite);
  m.impl("composite_backward", &composite_backward);
}

}  // namespace
}  // namespace threedgen
