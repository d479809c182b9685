// Emission and absorption along a ray of packed samples: w_i = T_i (1 - exp(-sigma_i step)), T_i = exp(-step sum_{j<i} sigma_j).
//
// Everything is written in terms of transmittance. Recovering it as 1 - (sum of weights) loses all digits where a ray is opaque.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/macros.h"

namespace threedgen {

template <typename T>
HOST_DEVICE T passed(T tau) { return exp(-tau); }
template <typename T>
HOST_DEVICE T absorbed(T tau) { return -expm1(-tau); }

// One ray forward: fills out[C] and weights[count], returns the transmittance at the end.
template <typename T>
HOST_DEVICE T composite_ray(const T* sigma, const T* features, int64_t count, int64_t channels, T step, T* out, T* weights) {
  T transmittance = 1;
  for (int64_t c = 0; c < channels; ++c) out[c] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T tau = sigma[i] * step;
    const T weight = transmittance * absorbed(tau);
    weights[i] = weight;
    for (int64_t c = 0; c < channels; ++c) out[c] += weight * features[i * channels + c];
    transmittance *= passed(tau);
  }
  return transmittance;
}

// One ray backward. With g_i the gradient that reaches weight i, and G that of the transmittance at the end,
//   d loss / d sigma_i = step (T_{i+1} g_i - sum_{j>i} w_j g_j - T_end G).
// A first walk leaves T_{i+1} in grad_sigma, a second one goes back from the end of the ray.
template <typename T>
HOST_DEVICE void composite_ray_backward(const T* grad_out, T grad_transmittance, const T* grad_weights, const T* sigma, const T* features,
                                        int64_t count, int64_t channels, T transmittance_end, T step, T* grad_sigma, T* grad_features) {
  T transmittance = 1;
  for (int64_t i = 0; i < count; ++i) {
    transmittance *= passed(sigma[i] * step);
    grad_sigma[i] = transmittance;
  }
  T behind = transmittance_end * grad_transmittance;
  for (int64_t i = count - 1; i >= 0; --i) {
    const T after = grad_sigma[i], before = i > 0 ? grad_sigma[i - 1] : T(1);
    const T weight = before * absorbed(sigma[i] * step);
    T g = grad_weights[i];
    for (int64_t c = 0; c < channels; ++c) {
      g += grad_out[c] * features[i * channels + c];
      grad_features[i * channels + c] = weight * grad_out[c];
    }
    grad_sigma[i] = step * (after * g - behind);
    behind += weight * g;
  }
}

}  // namespace threedgen
