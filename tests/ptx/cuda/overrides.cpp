// What tests decide in the launchers' place.
#include "cuda/host/blocks.h"
#include "cuda/launchers.h"

#define FITS_ON_CHIP(prefix) prefix##_ZN8multimix12fits_on_chipERKNS_7ContextERKNS_7LossJobE
#define SCRATCH_BYTES(prefix) prefix##_ZN8multimix13scratch_bytesEv

static bool always_large = false;
static int64_t scratch = 1 << 16;

extern "C" {

bool FITS_ON_CHIP(__real_)(const multimix::Context& context, const multimix::LossJob& job);
bool FITS_ON_CHIP(__wrap_)(const multimix::Context& context, const multimix::LossJob& job) {
  return !always_large && FITS_ON_CHIP(__real_)(context, job);
}

int64_t SCRATCH_BYTES(__real_)();
int64_t SCRATCH_BYTES(__wrap_)() { return scratch > 0 ? scratch : SCRATCH_BYTES(__real_)(); }

// The mixed loss takes the kernels for many classes whatever the sizes.
__attribute__((visibility("default"))) void standin_always_large(bool always) { always_large = always; }

// Bytes of the weights of a super-block; 0: as many as on a GPU.
__attribute__((visibility("default"))) void standin_scratch(int64_t bytes) { scratch = bytes; }

}  // extern "C"
