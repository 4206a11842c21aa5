// Which lane holds what of a matrix (PTX ISA 9.7.14.5, "Matrix Fragments for mma", and 9.7.15.5, "Register Fragments
// and Shared Memory Matrix Layouts" of wgmma). All shapes share one layout when operands are counted in units of 32
// bits: two 16-bit elements, or one of TF32, neighbours in the order of k. With g = lane / 4 and t = lane % 4, register
// r holds
//   of A (16 rows)      row g + 8 (r % 2), unit t + 4 (r / 2)
//   of B (8 columns)    unit t + 4 r, column g
//   of D (float32)      row g + 8 (r / 2 % 2), column 8 (r / 4) + 2 t + r % 2
// and of an 8 x 8 matrix of ldmatrix row g, elements 2 t and 2 t + 1 (PTX ISA 9.7.14.5.15).
#pragma once

#include "tensor_core.h"
#include "warp.h"

namespace ptx {

inline int group_of(int lane) { return lane / 4; }
inline int member_of(int lane) { return lane % 4; }

inline int elements_of_unit(Element element) { return element == Element::TF32 ? 1 : 2; }
inline float element_of_unit(Element element, uint32_t unit, int index) {
  return element_value(element, element == Element::TF32 ? unit : unit >> (16 * index) & 0xffff);
}

// A, of 16 rows of k elements, from the registers of a vector.
inline void read_a(Warp& warp, const Operand& vector, Element element, int k, float* a) {
  const int each = elements_of_unit(element);
  for (size_t r = 0; r < vector.parts.size(); ++r) {
    const uint64_t* lanes = warp.values(vector.parts[r]);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int e = 0; e < each; ++e)
        a[(group_of(lane) + 8 * (r % 2)) * k + (member_of(lane) + 4 * (r / 2)) * each + e] =
            element_of_unit(element, uint32_t(lanes[lane]), e);
  }
}

// B, of k rows of 8 elements.
inline void read_b(Warp& warp, const Operand& vector, Element element, float* b) {
  const int each = elements_of_unit(element);
  for (size_t r = 0; r < vector.parts.size(); ++r) {
    const uint64_t* lanes = warp.values(vector.parts[r]);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int e = 0; e < each; ++e)
        b[((member_of(lane) + 4 * r) * each + e) * 8 + group_of(lane)] =
            element_of_unit(element, uint32_t(lanes[lane]), e);
  }
}

// D, of 16 rows of n elements.
inline int place_of_d(int lane, int r, int n) {
  return (group_of(lane) + 8 * (r / 2 % 2)) * n + 8 * (r / 4) + 2 * member_of(lane) + r % 2;
}
inline void read_d(Warp& warp, const Operand& vector, int n, float* d) {
  for (size_t r = 0; r < vector.parts.size(); ++r) {
    const uint64_t* lanes = warp.values(vector.parts[r]);
    for (int lane = 0; lane < kLanes; ++lane) d[place_of_d(lane, int(r), n)] = as<float>(lanes[lane]);
  }
}
inline void write_d(Warp& warp, const Operand& vector, int n, const float* d) {
  for (size_t r = 0; r < vector.parts.size(); ++r) {
    uint64_t* lanes = warp.lanes(vector.parts[r].reg);
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = bits_of(d[place_of_d(lane, int(r), n)]);
  }
}

// Instructions of a whole warp: false until its lanes are together. Lanes that have left are a fault.
inline bool whole(Warp& warp) {
  if (!warp.gather(kAll)) return false;
  if (warp.live != kAll)
    fault(warp, __builtin_ctz(~warp.live), "part of a warp", "lanes that have left do not execute it");
  return true;
}

inline bool is_vector(const Operand& operand, size_t count) {
  if (operand.kind != Operand::Vector || operand.parts.size() != count) return false;
  for (const Operand& part : operand.parts)
    if (part.kind != Operand::Register && !part.constant) return false;
  return true;
}

inline int architecture_of(const std::string& target) { return std::atoi(target.c_str() + 3); }  // "sm_90a"

}  // namespace ptx
