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
  const char* name;
  bool supported;
  bool pairs = false;
};

Choice choose() {
#ifdef MULTIMIX_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
#ifdef MULTIMIX_KNOWS_BFLOAT16
  const bool bfloat16 = avx512 && __builtin_cpu_supports("avx512bf16");
#else
  const bool bfloat16 = false;
#endif
  const Choice choices[] = {
      {&avx512::kernels, "avx512bf16", bfloat16, true},
      {&avx512::kernels, "avx512", avx512},
      {&avx2::kernels, "avx2", avx2},
      {&baseline::kernels, "baseline", true},
  };
#else
  const Choice choices[] = {{&baseline::kernels, "baseline", true}};
#endif
  const char* wanted = std::getenv("MULTIMIX_CPU_ISA");
  for (const Choice& choice : choices)
    if (choice.supported && (!wanted || !*wanted || std::string(wanted) == choice.name)) return choice;
  throw std::runtime_error(std::string("MULTIMIX_CPU_ISA: this machine or this build does not have '") + wanted + "'");
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

const Kernels& kernels() { return *chosen().kernels; }

bool multiplies_pairs() { return chosen().pairs; }

}  // namespace multimix
