// The C interface, for Python and for the stand-in of the CUDA runtime.
#include "api.h"

#include <algorithm>

#include "block.h"

namespace ptx {
namespace {

void copy(const std::string& text, char* to, size_t size) {
  if (!size) return;
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result + '"';
}

std::string json(const Fault& fault, const Kernel& kernel) {
  const auto number = [](const char* name, uint64_t value) { return std::string(name) + std::to_string(value); };
  return "{\"kind\": " + quoted(fault.kind) + ", \"text\": " + quoted(fault.text) +
         ", \"kernel\": " + quoted(kernel.name) + number(", \"line\": ", fault.line) +
         number(", \"block\": [", fault.block[0]) + number(", ", fault.block[1]) + number(", ", fault.block[2]) +
         number("], \"warp\": ", fault.warp) + number(", \"lane\": ", fault.lane) +
         number(", \"times\": ", fault.times) + "}";
}

constexpr const char* kClasses[] = {"integer", "float",   "half",    "double",  "special",     "convert",
                                    "move",    "control", "matrix",  "shared",  "global",      "local",
                                    "param",   "atomic",  "shuffle", "barrier", "asynchronous"};
static_assert(std::size(kClasses) == size_t(Class::Count));

std::string json(const Launch& launch) {
  std::string text = "{\"faults\": [";
  for (const Fault& fault : launch.faults)
    text += (&fault == launch.faults.data() ? "" : ", ") + json(fault, launch.kernel);
  text += "], \"counts\": {";
  const Counts& counts = launch.counts;
  for (int k = 0; k < int(Class::Count); ++k)
    text += quoted(kClasses[k]) + ": " + std::to_string(counts.classes[k]) + ", ";
  text += "\"executed\": " + std::to_string(launch.executed);
  if (launch.options.check & kTraffic)
    text += ", \"global_sectors\": " + std::to_string(counts.global_sectors) +
            ", \"global_bytes\": " + std::to_string(counts.global_bytes) +
            ", \"shared_wavefronts\": " + std::to_string(counts.shared_wavefronts) +
            ", \"bank_conflicts\": " + std::to_string(counts.bank_conflicts) +
            ", \"shared_bytes\": " + std::to_string(counts.shared_bytes);
  return text + "}}";
}

std::string wrong_launch(const Kernel& kernel, const uint32_t* grid, const uint32_t* threads) {
  const uint64_t count = uint64_t{threads[0]} * threads[1] * threads[2];
  if (!count || count > 1024) return "a block of " + std::to_string(count) + " threads";
  for (int k = 0; k < 3; ++k)
    if (!grid[k]) return "a grid without blocks";
  const uint32_t* asked = kernel.required;
  if (!asked[0]) return "";
  const uint64_t most = uint64_t{asked[0]} * asked[1] * asked[2];
  const bool same = std::equal(threads, threads + 3, asked);
  if (kernel.exactly ? same : count <= most) return "";
  return "a block of " + std::to_string(count) + " threads, where the kernel is made for " +
         (kernel.exactly ? "" : "at most ") + std::to_string(most);
}

Module* module_of(void* module) { return static_cast<Module*>(module); }

}  // namespace
}  // namespace ptx

using namespace ptx;

void* ptx_load(const char* text, char* error, size_t error_size) {
  try {
    return read(text).release();
  } catch (const std::exception& problem) {
    copy(problem.what(), error, error_size);
    return nullptr;
  }
}

void ptx_unload(void* module) { delete module_of(module); }

int ptx_kernels(void* module, char* names, size_t size) {
  std::string text;
  for (const std::string& name : module_of(module)->order) text += (text.empty() ? "" : "\n") + name;
  copy(text, names, size);
  return int(module_of(module)->order.size());
}

int ptx_parameters(void* module, const char* kernel, uint32_t* sizes, int most) {
  const auto found = module_of(module)->kernels.find(kernel);
  if (found == module_of(module)->kernels.end()) return -1;
  const auto& parameters = found->second.parameters;
  for (size_t k = 0; k < parameters.size() && int(k) < most; ++k) sizes[k] = parameters[k].size;
  return int(parameters.size());
}

void* ptx_symbol(void* module, const char* name, uint64_t* bytes) {
  const auto found = module_of(module)->variables.find(name);
  if (found == module_of(module)->variables.end()) return nullptr;
  *bytes = found->second.size;
  return found->second.data;
}

int ptx_launch(void* module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
               uint32_t dynamic_shared, const void* const* parameters, const ptx_range* ranges, size_t range_count,
               const ptx_options* options, char* report, size_t report_size) {
  const auto found = module_of(module)->kernels.find(kernel);
  const auto refuse = [&](const std::string& text) {
    copy("{\"faults\": [{\"kind\": \"launch\", \"text\": " + quoted(text) + "}], \"counts\": {}}", report, report_size);
    return 1;
  };
  if (found == module_of(module)->kernels.end()) return refuse(std::string("there is no kernel ") + kernel);
  const std::string wrong = wrong_launch(found->second, grid, block);
  if (!wrong.empty()) return refuse(wrong);
  Launch launch(*module_of(module), found->second);
  std::copy(grid, grid + 3, launch.grid);
  std::copy(block, block + 3, launch.threads);
  launch.dynamic_shared = dynamic_shared;
  launch.options = {options->seed, options->check, options->approximate_error, options->most_instructions};
  launch.random.seed(options->seed);
  launch.parameters.resize(launch.kernel.parameter_bytes);
  for (size_t k = 0; k < launch.kernel.parameters.size(); ++k) {
    const Parameter& parameter = launch.kernel.parameters[k];
    std::memcpy(launch.parameters.data() + parameter.offset, parameters[k], parameter.size);
  }
  for (size_t k = 0; k < range_count; ++k)
    launch.ranges.push_back({ranges[k].begin, ranges[k].end, ranges[k].writable});
  for (const auto& [name, variable] : launch.module.variables) {
    const auto begin = reinterpret_cast<uint64_t>(variable.data);
    launch.ranges.push_back({begin, begin + variable.size, variable.writable});
  }
  std::sort(launch.ranges.begin(), launch.ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  try {
    run(launch);
  } catch (const std::exception& problem) {
    return refuse(problem.what());
  }
  copy(json(launch), report, report_size);
  return int(launch.faults.size());
}
