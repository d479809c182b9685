// What every CUDA source needs: the stream, the grid of a launch, and its check.
#pragma once

#include <cstdint>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace threedgen {

constexpr int threads_per_block = 256;

// Blocks for `count` threads; kernels stride over the rest where there are more than a grid holds.
inline unsigned blocks_for(int64_t count) {
  const int64_t blocks = (count + threads_per_block - 1) / threads_per_block;
  return unsigned(blocks < (int64_t(1) << 30) ? blocks : (int64_t(1) << 30));
}

__device__ inline int64_t first_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_stride() { return int64_t(gridDim.x) * blockDim.x; }

}  // namespace threedgen

// Launches kernel(arguments...) with one thread per item on torch's current stream; an empty range launches nothing.
#define THREEDGEN_LAUNCH(count, kernel, ...)                                                                                      \
  do {                                                                                                                            \
    if ((count) > 0) {                                                                                                            \
      kernel<<<blocks_for(count), threads_per_block, 0, c10::cuda::getCurrentCUDAStream()>>>(__VA_ARGS__);                        \
      C10_CUDA_KERNEL_LAUNCH_CHECK();                                                                                             \
    }                                                                                                                             \
  } while (false)
