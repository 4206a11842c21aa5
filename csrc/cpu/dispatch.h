// The kernels for the machine this runs on.
#pragma once

#include "cpu/jobs.h"

namespace multimix {

// The best instruction set that was built and that this machine has; MULTIMIX_CPU_ISA names another.
const Kernels& kernels();

}  // namespace multimix
