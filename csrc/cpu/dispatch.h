// The kernels for the machine this runs on.
#pragma once

#include "cpu/jobs.h"

namespace multimix {

// The best instruction set that was built and that this machine has; MULTIMIX_CPU_ISA names another.
const Kernels& kernels();

// Whether they may multiply pairs of bfloat16: "avx512bf16" is the instruction set "avx512" with these.
bool multiplies_pairs();

}  // namespace multimix
