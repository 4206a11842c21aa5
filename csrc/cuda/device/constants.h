// Numbers that kernels of several rooms need.
#pragma once

#include <cstdint>

namespace multimix {

constexpr int kWarp = 32;  // lanes
constexpr uint32_t kAllLanes = 0xffffffffu;

// Exponentials and logarithms are to base two, as the special function unit takes them.
constexpr double kLog2EDouble = 1.4426950408889634;
constexpr float kLog2E = float(kLog2EDouble), kLn2 = 0.6931471805599453f;
constexpr float kInfinity = __builtin_huge_valf(), kNaN = __builtin_nanf("");

}  // namespace multimix
