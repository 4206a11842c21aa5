// What kernels may touch of the host's memory in the operator call that this thread is in.
#pragma once

#include <cstdint>
#include <vector>

namespace standin {

struct Range {  // as ptx_range
  uint64_t begin, end;
  int writable;
};

std::vector<Range>& ranges();

}  // namespace standin
