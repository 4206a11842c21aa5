#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace multimix {

namespace baseline {
extern const Kernels kernels;
}
#ifdef MULTIMIX_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

namespace {

struct Choice {
  const Kernels* kernels;
  bool supported;
};

const Kernels& choose() {
#ifdef MULTIMIX_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  const Choice choices[] = {{&avx512::kernels, avx512}, {&avx2::kernels, avx2}, {&baseline::kernels, true}};
#else
  const Choice choices[] = {{&baseline::kernels, true}};
#endif
  const char* wanted = std::getenv("MULTIMIX_CPU_ISA");
  for (const Choice& choice : choices)
    if (choice.supported && (!wanted || !*wanted || std::string(wanted) == choice.kernels->name))
      return *choice.kernels;
  throw std::runtime_error(std::string("MULTIMIX_CPU_ISA: this machine or this build does not have '") + wanted + "'");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace multimix
