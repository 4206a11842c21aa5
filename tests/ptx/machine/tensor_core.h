// How tensor cores add up products. PTX leaves it open ("the accumulation order ... is unspecified"); it has been
// measured: M. Fasi, N. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021), and P. Xie
// et al., "MMA-Sim: bit-accurate reference model of tensor cores and matrix cores" (arXiv:2511.10909), whose model this
// is: products are exact; the products of a fused sum and the accumulator are aligned to the largest exponent among
// them and truncated to `fraction_bits` below it; their sum is exact, and truncated to float32.
#pragma once

#include <cstdint>

namespace ptx {

enum class Element { BF16, F16, TF32 };

struct FusedSum {
  int terms;          // products that are added at once
  int fraction_bits;  // below the largest exponent
};

// Of mma with products over k elements, and of wgmma, on GPUs of an architecture (80, 90, ...).
FusedSum fused_sum(int architecture, Element element, int k);

// An operand's element, as it lies in the low bits; of TF32 the low 13 bits count for nothing.
float element_value(Element element, uint32_t bits);

// d (m x n) += a (m x k) b (k x n), rows of the lengths given; m and k at most 16, m and n multiples of 4.
void multiply(FusedSum how, Element element, int m, int n, int k, const float* a, const float* b, float* d);

}  // namespace ptx
