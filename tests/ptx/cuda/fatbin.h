// The PTX in what nvcc embeds into host code.
#pragma once

#include <string>

namespace standin {

// Of a target such as "sm_90a"; throws std::runtime_error if there is none, or if it is compressed.
std::string ptx_of(const void* wrapper, const std::string& target);

}  // namespace standin
