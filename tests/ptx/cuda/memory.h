// What kernels may touch of the host's memory in the operator call that this thread is in.
#pragma once

#include <vector>

#include "../machine/api.h"

namespace standin {

using Range = ptx_range;

std::vector<Range>& ranges();

}  // namespace standin
