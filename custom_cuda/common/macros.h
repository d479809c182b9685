// HOST_DEVICE: a function for the CPU and the CUDA kernels alike. It has internal linkage, so that the copies compiled for
// different instruction sets never meet in the linker. HOST_DEVICE_MEMBER: the same for members, which are always inlined.
#pragma once

#if defined(__CUDACC__)
#define HOST_DEVICE_MEMBER __host__ __device__ __forceinline__
#else
#define HOST_DEVICE_MEMBER inline __attribute__((always_inline))
#endif
#define HOST_DEVICE static HOST_DEVICE_MEMBER
