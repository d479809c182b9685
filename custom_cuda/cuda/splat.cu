// A block per tile, a thread per pixel; Gaussians come in batches through shared memory. Gradients of a Gaussian are added up over the
// pixels of a tile in a fixed order, then over the tiles in the order of the entries: no atomics, so runs repeat bit for bit.
#include <tuple>
#include <type_traits>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/splat.h"
#include "common/splat_checks.h"
#include "cuda/launch.h"

namespace threedgen {
namespace {

constexpr int splat_tile = 16, splat_threads = splat_tile * splat_tile, splat_warps = splat_threads / 32, splat_channels = 32;

template <typename T>
struct SplatScene {
  const T *mean, *conic, *opacity, *features;
  const int32_t* entries;
  const int64_t* offsets;
  int64_t height, width, rows, columns, channels;
};

// The pixel of a thread and the entries of its tile.
struct SplatPixel {
  int64_t view, x, y, index, begin, end;
  bool inside;
};

template <typename T>
__device__ SplatPixel splat_pixel(const SplatScene<T>& scene) {
  const int64_t block = blockIdx.x, view = block / (scene.rows * scene.columns), tile = block % (scene.rows * scene.columns);
  const int64_t x = tile % scene.columns * splat_tile + threadIdx.x % splat_tile, y = tile / scene.columns * splat_tile + threadIdx.x / splat_tile;
  return {view, x, y, (view * scene.height + y) * scene.width + x, scene.offsets[block], scene.offsets[block + 1], x < scene.width && y < scene.height};
}

template <typename T>
struct SplatShared {
  T x, y, xx, xy, yy, opacity;
};

template <typename T>
__device__ SplatShared<T> splat_fetch(const SplatScene<T>& scene, int64_t g) {
  return {scene.mean[2 * g], scene.mean[2 * g + 1], scene.conic[3 * g], scene.conic[3 * g + 1], scene.conic[3 * g + 2], scene.opacity[g]};
}

// Alpha before it is cut to the greatest; 0 where the Gaussian does not show.
template <typename T>
__device__ T splat_alpha(const SplatShared<T>& s, T dx, T dy) {
  const T exponent = (s.xx * dx * dx + s.yy * dy * dy) / 2 + s.xy * dx * dy;
  const T alpha = s.opacity * exp(-exponent);
  return exponent >= 0 && alpha >= T(splat_least_alpha) ? alpha : T(0);
}

// `most_channels` bounds the channels, so that a pixel's sums stay in registers.
template <typename T, int most_channels>
__global__ void __launch_bounds__(splat_threads) splat_forward(SplatScene<T> scene, T* out, T* transmittance, int32_t* last_out) {
  __shared__ SplatShared<T> batch[splat_threads];
  __shared__ int32_t gaussian[splat_threads];
  const SplatPixel pixel = splat_pixel(scene);
  T light = 1, sums[most_channels];
  for (int c = 0; c < most_channels; ++c) sums[c] = 0;
  int32_t last = 0;
  bool open = pixel.inside;
  for (int64_t start = pixel.begin; start < pixel.end; start += splat_threads) {
    if (!__syncthreads_or(open)) break;
    const int64_t mine = start + threadIdx.x;
    if (mine < pixel.end) {
      gaussian[threadIdx.x] = scene.entries[mine];
      batch[threadIdx.x] = splat_fetch(scene, gaussian[threadIdx.x]);
    }
    __syncthreads();
    const int count = int(min(int64_t(splat_threads), pixel.end - start));
    for (int i = 0; i < count && open; ++i) {
      const T alpha = min(splat_alpha(batch[i], T(pixel.x) + T(0.5) - batch[i].x, T(pixel.y) + T(0.5) - batch[i].y), T(splat_most_alpha));
      if (alpha == 0) continue;
      const T behind = light * (1 - alpha);
      if (!(behind > T(splat_least_transmittance))) {
        open = false;
        break;
      }
      const T* features = scene.features + gaussian[i] * scene.channels;
#pragma unroll
      for (int c = 0; c < most_channels; ++c)
        if (c < scene.channels) sums[c] += alpha * light * features[c];
      light = behind;
      last = int32_t(start - pixel.begin) + i + 1;
    }
  }
  if (!pixel.inside) return;
#pragma unroll
  for (int c = 0; c < most_channels; ++c)
    if (c < scene.channels) out[pixel.index * scene.channels + c] = sums[c];
  transmittance[pixel.index] = light;
  last_out[pixel.index] = last;
}

template <typename T>
__device__ T splat_warp_sum(T value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffff, value, step);
  return value;
}

// The mathematics are those of cpu/splat_kernels.cpp. grad_entries [E, 6 + C] must hold zeros.
template <typename T, int most_channels>
__global__ void __launch_bounds__(splat_threads)
    splat_backward_entries(SplatScene<T> scene, const T* grad_out, const T* grad_transmittance, const T* transmittance, const int32_t* last_in, T* grad_entries) {
  __shared__ T shared[splat_warps][6 + most_channels];
  __shared__ int most;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = 6 + int(scene.channels);
  const SplatPixel pixel = splat_pixel(scene);
  const int last = pixel.inside ? last_in[pixel.index] : 0;
  T light = pixel.inside ? transmittance[pixel.index] : T(1);
  T behind = pixel.inside ? light * grad_transmittance[pixel.index] : T(0);
  T grad[most_channels];
#pragma unroll
  for (int c = 0; c < most_channels; ++c) grad[c] = pixel.inside && c < scene.channels ? grad_out[pixel.index * scene.channels + c] : T(0);
  if (threadIdx.x == 0) most = 0;
  __syncthreads();
  atomicMax(&most, last);
  __syncthreads();
  for (int e = most - 1; e >= 0; --e) {
    const int64_t g = scene.entries[pixel.begin + e];
    const SplatShared<T> s = splat_fetch(scene, g);
    const T dx = T(pixel.x) + T(0.5) - s.x, dy = T(pixel.y) + T(0.5) - s.y;
    const T uncut = e < last ? splat_alpha(s, dx, dy) : T(0);
    if (!__syncthreads_or(uncut > 0)) continue;
    const T alpha = min(uncut, T(splat_most_alpha));
    const T opened = 1 / (1 - alpha), front = light * opened, weight = alpha * front;
    const T* features = scene.features + g * scene.channels;
    T dot = 0;
#pragma unroll
    for (int c = 0; c < most_channels; ++c)
      if (c < scene.channels) dot += features[c] * grad[c];
    const bool bends = uncut > 0 && uncut <= T(splat_most_alpha);
    const T to_exponent = bends ? -alpha * (front * dot - behind * opened) : T(0);
    if (uncut > 0) {
      behind += weight * dot;
      light = front;
    }
    // Over the warp by shuffles, then over the warps by one thread a value; both in a fixed order.
    const T geometric[6] = {to_exponent, to_exponent * dx, to_exponent * dy, to_exponent * dx * dx, to_exponent * dx * dy, to_exponent * dy * dy};
    const bool shows_in_warp = __any_sync(0xffffffff, uncut > 0);
#pragma unroll
    for (int k = 0; k < 6; ++k) {
      const T sum = shows_in_warp ? splat_warp_sum(geometric[k]) : T(0);
      if (lane == 0) shared[warp][k] = sum;
    }
#pragma unroll
    for (int c = 0; c < most_channels; ++c) {
      if (c >= scene.channels) break;
      const T sum = shows_in_warp ? splat_warp_sum(uncut > 0 ? weight * grad[c] : T(0)) : T(0);
      if (lane == 0) shared[warp][6 + c] = sum;
    }
    __syncthreads();
    if (threadIdx.x < width) {
      T sum = 0;
      for (int w = 0; w < splat_warps; ++w) sum += shared[w][threadIdx.x];
      shared[0][threadIdx.x] = sum;
    }
    __syncthreads();
    T* target = grad_entries + (pixel.begin + e) * width;
    const T* sum = shared[0];
    if (threadIdx.x == 0) target[0] = -s.xx * sum[1] - s.xy * sum[2];
    if (threadIdx.x == 1) target[1] = -s.xy * sum[1] - s.yy * sum[2];
    if (threadIdx.x == 2) target[2] = sum[3] / 2;
    if (threadIdx.x == 3) target[3] = sum[4];
    if (threadIdx.x == 4) target[4] = sum[5] / 2;
    if (threadIdx.x == 5) target[5] = -sum[0] / s.opacity;
    if (threadIdx.x >= 6 && threadIdx.x < width) target[threadIdx.x] = sum[threadIdx.x];
  }
}

// One thread a Gaussian and value: adds the entries order[begin[g]] ... order[begin[g + 1]], which name the Gaussian.
template <typename T>
__global__ void splat_add_entries(const T* grad_entries, const int64_t* order, const int64_t* begin, T* mean, T* conic, T* opacity, T* features, int64_t gaussians,
                                  int64_t channels) {
  const int64_t width = 6 + channels;
  for (int64_t i = first_thread(); i < gaussians * width; i += thread_stride()) {
    const int64_t g = i / width, k = i % width;
    T sum = 0;
    for (int64_t e = begin[g]; e < begin[g + 1]; ++e) sum += grad_entries[order[e] * width + k];
    T* target = k < 2 ? mean + 2 * g + k : k < 5 ? conic + 3 * g + k - 2 : k < 6 ? opacity + g : features + g * channels + k - 6;
    *target = sum;
  }
}

// Calls launch(std::integral_constant) with the smallest bound on the channels that holds.
template <typename Launch>
void splat_for_channels(int64_t channels, const Launch& launch) {
  if (channels <= 4)
    launch(std::integral_constant<int, 4>());
  else if (channels <= 8)
    launch(std::integral_constant<int, 8>());
  else
    launch(std::integral_constant<int, splat_channels>());
}

struct SplatTensors {
  at::Tensor mean, conic, opacity, features, entries, offsets;
  int64_t height, width;

  SplatTensors(const at::Tensor& mean_, const at::Tensor& conic_, const at::Tensor& opacity_, const at::Tensor& features_, const at::Tensor& extent,
               const at::Tensor& entries_, const at::Tensor& offsets_, int64_t height_, int64_t width_, int64_t tile)
      : mean(mean_.contiguous()), conic(conic_.contiguous()), opacity(opacity_.contiguous()), features(features_.contiguous()), entries(entries_.contiguous()),
        offsets(offsets_.contiguous()), height(height_), width(width_) {
    splat_checks(mean_, conic_, opacity_, features_, extent, entries_, offsets_, height_, width_, tile);
    TORCH_CHECK_VALUE(tile == splat_tile, "splat: on CUDA tile must be ", splat_tile);
    TORCH_CHECK_VALUE(features.size(2) <= splat_channels, "splat: on CUDA there may be ", splat_channels, " channels, got ", features.size(2));
  }
  int64_t rows() const { return (height + splat_tile - 1) / splat_tile; }
  int64_t columns() const { return (width + splat_tile - 1) / splat_tile; }
  unsigned blocks() const { return unsigned(mean.size(0) * rows() * columns()); }
  template <typename T>
  SplatScene<T> scene() const {
    return {mean.const_data_ptr<T>(), conic.const_data_ptr<T>(), opacity.const_data_ptr<T>(), features.const_data_ptr<T>(), entries.const_data_ptr<int32_t>(),
            offsets.const_data_ptr<int64_t>(), height, width, rows(), columns(), features.size(2)};
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> splat(const at::Tensor& mean, const at::Tensor& conic, const at::Tensor& opacity, const at::Tensor& features,
                                                     const at::Tensor& extent, const at::Tensor& entries, const at::Tensor& offsets, int64_t height, int64_t width,
                                                     int64_t tile) {
  const SplatTensors tensors(mean, conic, opacity, features, extent, entries, offsets, height, width, tile);
  const c10::cuda::CUDAGuard guard(mean.device());
  at::Tensor out = at::empty({mean.size(0), height, width, features.size(2)}, mean.options()), transmittance = at::empty({mean.size(0), height, width}, mean.options());
  at::Tensor last = at::empty({mean.size(0), height, width}, mean.options().dtype(at::kInt));
  if (tensors.blocks() == 0) return {out, transmittance, last};
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat", [&] {
    splat_for_channels(features.size(2), [&](auto most) {
      splat_forward<scalar_t, decltype(most)::value><<<tensors.blocks(), splat_threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
          tensors.scene<scalar_t>(), out.mutable_data_ptr<scalar_t>(), transmittance.mutable_data_ptr<scalar_t>(), last.mutable_data_ptr<int32_t>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return {out, transmittance, last};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> splat_backward(
    const at::Tensor& grad_out_, const at::Tensor& grad_transmittance_, const at::Tensor& mean, const at::Tensor& conic, const at::Tensor& opacity,
    const at::Tensor& features, const at::Tensor& extent, const at::Tensor& entries, const at::Tensor& offsets, const at::Tensor& transmittance_,
    const at::Tensor& last_, int64_t height, int64_t width, int64_t tile) {
  const SplatTensors tensors(mean, conic, opacity, features, extent, entries, offsets, height, width, tile);
  splat_backward_checks(grad_out_, grad_transmittance_, features, transmittance_, last_, height, width);
  const c10::cuda::CUDAGuard guard(mean.device());
  const at::Tensor grad_out = grad_out_.contiguous(), grad_transmittance = grad_transmittance_.contiguous(), transmittance = transmittance_.contiguous(), last = last_.contiguous();
  const int64_t channels = features.size(2), gaussians = mean.size(0) * mean.size(1);
  at::Tensor to_mean = at::empty(mean.sizes(), mean.options()), to_conic = at::empty(conic.sizes(), mean.options());
  at::Tensor to_opacity = at::empty(opacity.sizes(), mean.options()), to_features = at::empty(features.sizes(), mean.options());
  at::Tensor to_entries = at::zeros({entries.numel(), 6 + channels}, mean.options());
  // entries by Gaussian, in the order of the entries; begin[g] is where those of Gaussian g are
  const auto [named, order] = at::sort(tensors.entries, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor begin = at::searchsorted(named, at::arange(gaussians + 1, named.options()));
  AT_DISPATCH_FLOATING_TYPES(mean.scalar_type(), "splat_backward", [&] {
    if (tensors.blocks() > 0)
      splat_for_channels(channels, [&](auto most) {
        splat_backward_entries<scalar_t, decltype(most)::value><<<tensors.blocks(), splat_threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            tensors.scene<scalar_t>(), grad_out.const_data_ptr<scalar_t>(), grad_transmittance.const_data_ptr<scalar_t>(), transmittance.const_data_ptr<scalar_t>(),
            last.const_data_ptr<int32_t>(), to_entries.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
    THREEDGEN_LAUNCH(gaussians * (6 + channels), splat_add_entries<scalar_t>, to_entries.const_data_ptr<scalar_t>(), order.const_data_ptr<int64_t>(),
                     begin.const_data_ptr<int64_t>(), to_mean.mutable_data_ptr<scalar_t>(), to_conic.mutable_data_ptr<scalar_t>(),
                     to_opacity.mutable_data_ptr<scalar_t>(), to_features.mutable_data_ptr<scalar_t>(), gaussians, channels);
  });
  return {to_mean, to_conic, to_opacity, to_features};
}

TORCH_LIBRARY_IMPL(threedgen, CUDA, m) {
  m.impl("splat", &splat);
  m.impl("splat_backward", &splat_backward);
}

}  // namespace
}  // namespace threedgen
