// A fat binary is a header, then entries of a header and a payload each; a wrapper in a section of its own points to
// it. Neither is documented; magic numbers and sizes are checked, so that another layout is an error.
#include "fatbin.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace standin {
namespace {

struct Wrapper {
  uint32_t magic, version;
  const unsigned char* binary;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes;
};
constexpr uint32_t kWrapperMagic = 0x466243b1, kMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;

template <class T>
T read(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

bool is_for(const std::string& text, const std::string& target) {
  const size_t at = text.find(".target ");
  if (at == std::string::npos) throw std::runtime_error("the PTX of the fat binary is compressed");
  const size_t name = at + 8;
  return text.substr(name, text.find_first_of(", \n", name) - name) == target;
}

}  // namespace

std::string ptx_of(const void* wrapper, const std::string& target) {
  const auto outer = read<Wrapper>(static_cast<const unsigned char*>(wrapper));
  if (outer.magic != kWrapperMagic) throw std::runtime_error("this is not a fat binary");
  const auto header = read<Header>(outer.binary);
  if (header.magic != kMagic || header.version != 1) throw std::runtime_error("an unknown layout of fat binaries");
  const unsigned char* at = outer.binary + header.header_bytes;
  const unsigned char* end = at + header.bytes;
  while (at < end) {
    const auto entry = read<Entry>(at);
    if (entry.kind == kPtx) {
      const char* payload = reinterpret_cast<const char*>(at + entry.header_bytes);
      const std::string text(payload, strnlen(payload, entry.bytes));
      if (is_for(text, target)) return text;
    }
    at += entry.header_bytes + entry.bytes;
  }
  throw std::runtime_error("there is no PTX for " + target);
}

}  // namespace standin
