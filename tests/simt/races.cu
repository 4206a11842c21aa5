// Two accesses of the same bytes, one of them a write, that nothing orders.
#include "faults.h"

namespace faults {
namespace {

template <bool right>
__global__ void race_between_warps(Buffers at) {
  clear_tile();
  tile()[threadIdx.x] = at.input[threadIdx.x];
  if (right) __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x ^ 32];
}

// Threads read first and write later.
template <bool right>
__global__ void race_after_reading(Buffers at) {
  tile()[threadIdx.x] = at.input[threadIdx.x];
  __syncthreads();
  const float x = tile()[threadIdx.x ^ 32];
  if (right) __syncthreads();
  tile()[threadIdx.x] = x;
}

// Of all that read a word, the last writes it: the others are remembered, too.
template <bool right>
__global__ void race_of_the_last_reader(Buffers at) {
  clear_tile();
  const float x = tile()[0];
  if (right) __syncthreads();
  if (atomicAdd(at.count, 1) == (right ? 0 : 127)) tile()[0] = x + 1;
}

template <bool right>
__global__ void race_within_a_warp(Buffers at) {
  clear_tile();
  tile()[threadIdx.x] = at.input[threadIdx.x];
  if (right) __syncwarp();
  at.output[threadIdx.x] = tile()[threadIdx.x ^ 1];
}

// A shuffle moves a value, but orders nothing in memory.
template <bool right>
__global__ void race_across_a_shuffle(Buffers at) {
  clear_tile();
  tile()[threadIdx.x] = at.input[threadIdx.x];
  const float x = __shfl_xor_sync(kAllLanes, at.input[threadIdx.x], 1);
  if (right) __syncwarp();
  at.output[threadIdx.x] = tile()[threadIdx.x ^ 1] + x;
}

// Half a warp synchronises: that orders its own lanes, and not the other half's.
template <bool right>
__global__ void race_with_the_other_half(Buffers at) {
  clear_tile();
  tile()[threadIdx.x] = at.input[threadIdx.x];
  __syncwarp(threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u);
  __ballot_sync(kAllLanes, 1);
  at.output[threadIdx.x] = tile()[threadIdx.x ^ (right ? 1 : 16)];
}

// Words, and parts of words. Half of the threads write, the others read.
template <bool right>
__global__ void race_of_a_word_and_its_half(Buffers at) {
  clear_tile();
  if (threadIdx.x < 64) tile()[threadIdx.x] = 1;
  if (right) __syncthreads();
  if (threadIdx.x >= 64) at.output[threadIdx.x] = reinterpret_cast<uint16_t*>(tile())[(threadIdx.x - 64) * 2];
}

template <bool right>
__global__ void race_of_a_half_and_its_word(Buffers at) {
  clear_tile();
  if (threadIdx.x < 64) reinterpret_cast<uint16_t*>(tile())[threadIdx.x * 2] = 1;
  if (right) __syncthreads();
  if (threadIdx.x >= 64) at.output[threadIdx.x] = tile()[threadIdx.x - 64];
}

template <bool right>
__global__ void race_of_a_word_that_was_halves(Buffers at) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(tile());
  halves[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x < 64) tile()[threadIdx.x] = 1;
  if (right) __syncthreads();
  if (threadIdx.x >= 64) at.output[threadIdx.x] = tile()[threadIdx.x - 64];
}

// Neighbouring halves of words are no race.
template <bool right>
__global__ void race_of_halves(Buffers) {
  reinterpret_cast<uint16_t*>(tile())[right ? threadIdx.x : threadIdx.x ^ (threadIdx.x == 33)] = 1;
}

template <bool right>
__global__ void race_in_global_memory(Buffers at) {
  at.output[threadIdx.x] = 1;
  __syncthreads();
  at.output[threadIdx.x] = 2;
  if (right) __syncthreads();
  at.output[threadIdx.x ^ 32] += 1;
}

template <bool right>
__global__ void race_between_blocks(Buffers at) {
  if (threadIdx.x == 0) at.output[right ? blockIdx.x : 0] = 1;
}

template <bool right>
__global__ void block_reads_what_another_wrote(Buffers at) {
  const int own = int(blockIdx.x) * 128;
  if (blockIdx.x == 0 || right) at.output[own + threadIdx.x] = at.input[threadIdx.x];
  __syncthreads();
  if (blockIdx.x == 1) at.output[own + threadIdx.x] = at.output[(right ? own : 0) + threadIdx.x];
}

template <bool right>
__global__ void block_writes_what_another_read(Buffers at) {
  if (threadIdx.x > 0) return;
  if (blockIdx.x == 0) at.count[1] = at.count[0];
  if (blockIdx.x == 1) at.count[right ? 2 : 0] = 3;
}

template <bool right>
__global__ void plain_beside_atomic(Buffers at) {
  if (right || threadIdx.x != 5)
    atomicAdd(at.count, 1);
  else
    at.count[0] = 1;
}

}  // namespace

Cases races() {
  return {
      SIMT_CASE(race_between_warps),
      SIMT_CASE(race_after_reading),
      SIMT_CASE(race_of_the_last_reader),
      SIMT_CASE(race_within_a_warp),
      SIMT_CASE(race_across_a_shuffle),
      SIMT_CASE(race_with_the_other_half),
      SIMT_CASE(race_of_a_word_and_its_half),
      SIMT_CASE(race_of_a_half_and_its_word),
      SIMT_CASE(race_of_a_word_that_was_halves),
      SIMT_CASE(race_of_halves),
      SIMT_CASE(race_in_global_memory),
      SIMT_CASE(race_between_blocks, 128, 2),
      SIMT_CASE(block_reads_what_another_wrote, 128, 2),
      SIMT_CASE(block_writes_what_another_read, 32, 2),
      SIMT_CASE(plain_beside_atomic),
  };
}

}  // namespace faults
