// What Python asks of the stand-in: which device there is, and what ran on it.
#include "device.h"

#include <cstring>

namespace standin {

Device& device() {
  static Device only;
  return only;
}

Attributes& attributes() {
  static Attributes all;
  return all;
}

Reports& reports() {
  static Reports all;
  return all;
}

}  // namespace standin

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

EXPORTED void standin_use(const char* target, int shared_limit, const ptx_options* options) {
  standin::device().target = target;
  standin::device().shared_limit = shared_limit;
  standin::device().options = *options;
}

EXPORTED void standin_observe(standin::Observer observer) { standin::device().observer = observer; }

// Whether kernels run, and how many multiprocessors they believe in.
EXPORTED void standin_execute(bool executes, int processors) {
  standin::device().executes = executes;
  standin::device().processors = processors;
}

// How often cudaFuncSetAttribute was called; from now on it takes `pause` milliseconds, and fails if it is refused.
EXPORTED int standin_attributes(int pause, bool refused) {
  standin::attributes().pause = pause;
  standin::attributes().refused = refused;
  return standin::attributes().calls;
}

// The bytes of all reports; with room for them, they are copied and forgotten.
EXPORTED size_t standin_reports(char* out, size_t size) {
  standin::Reports& all = standin::reports();
  const std::lock_guard lock(all.mutex);
  std::string text;
  for (const std::string& line : all.lines) text += line + "\n";
  if (text.size() <= size) {
    std::memcpy(out, text.data(), text.size());
    all.lines.clear();
  }
  return text.size();
}

}  // extern "C"
