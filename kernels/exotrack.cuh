// The few words that every kernel is written in. `-D EXOTRACK_HOST` replaces them by a version that runs threads of a
// block on a processor and checks every access (tests/cuda_host/host.h): the text of a kernel is the same.
#pragma once

typedef long long int64;

#ifdef EXOTRACK_HOST
#include "host.h"
#else

// A kernel that is launched with at most so many threads per block.
#define KERNEL(most_threads) extern "C" __global__ void __launch_bounds__(most_threads, 1)

// Arrays in the device's memory. Inputs may overlap one another, outputs nothing.
template <class T> using In = const T* __restrict__;
template <class T> using Out = T* __restrict__;

// An array of a fixed size in the memory that the threads of a block share; it holds anything to begin with. To be
// declared where all threads of the block come by, once.
#define SHARED(type, name, count) __shared__ type name[count]
// The type of such an array as a parameter of a function.
template <class T> using Shared = T*;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

#endif

#define WARP 32
#define EVERY_LANE 0xffffffffu

__device__ inline int lane_of_warp() { return threadIdx.x % WARP; }

// Sum over the lanes of a warp, the same bits in each of them.
template <class T> __device__ inline T warp_sum(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(EVERY_LANE, value, distance);
    return value;
}

template <class T> __device__ inline T warp_max(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(EVERY_LANE, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

template <class T> __device__ inline T clamped(T value, T lowest, T highest) {
    return value < lowest ? lowest : value > highest ? highest : value;
}
