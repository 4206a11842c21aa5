// Runs CUDA kernels on the CPU, and checks what they do to memory. Kernels include this where CUDA's headers are
// missing.
//
// A block is one operating-system thread that switches between as many fibers as the block has threads; blocks follow
// each other. Memory accesses are found by the compiler's -fsanitize=thread (and alignment), whose calls hooks.cpp
// answers. What is checked stands in shadow.h and block.h.
// MULTIMIX_SIMT_ORDER: "reverse", or a number that seeds another order of lanes, warps and blocks.
// MULTIMIX_SIMT_ERRORS: approximate functions are off by as much as the GPU's may be, and products of matrices
// truncate, as tensor cores do.
#pragma once

#include "barriers.h"
#include "machine.h"
#include "names.h"
#include "run.h"
#include "simt_memory.h"
#include "warps.h"
