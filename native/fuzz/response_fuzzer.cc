// Fuzzes the framing of HTTP responses: whatever a server sends, in whatever pieces it comes, the same bytes are the
// body, nothing is counted twice, and heads stay within their bounds. The first byte of an input is the size of the
// pieces.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "storage/http_framing.h"

namespace {

using weightstream::HttpFraming;
using Part = HttpFraming::Part;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

struct Read {
  Part part = Part::kHead;
  int status = 0;
  std::string body;
  std::size_t taken = 0;
  bool reusable = false;
};

Read read(std::string_view bytes, std::size_t piece) {
  HttpFraming framing;
  Read result;
  while (result.taken < bytes.size() && (framing.part() == Part::kHead || framing.part() == Part::kBody)) {
    const auto came = bytes.substr(result.taken, piece);
    const auto run = static_cast<std::size_t>(std::min<std::uint64_t>(framing.run(), came.size()));
    require(run == 0 || framing.part() == Part::kBody, "only bodies have bytes");
    if (run > 0) {
      result.body += came.substr(0, run);
      framing.took(run);
      result.taken += run;
      continue;
    }
    const auto taken = framing.frame(came);
    require(taken <= came.size(), "it takes no more than it gets");
    require(taken > 0 || framing.part() == Part::kBroken, "it goes on");
    result.taken += taken;
  }
  if (framing.part() != Part::kHead && framing.part() != Part::kBroken) {
    require(framing.head().status >= 200 && framing.head().status <= 999, "a status that ends a response");
  }
  require((framing.part() == Part::kBroken) == !framing.defect().empty(), "a defect has a name");
  result.part = framing.part();
  result.status = framing.head().status;
  result.reusable = framing.reusable();
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);  // NOLINT(*-reinterpret-cast)
  const auto whole = read(bytes, std::max<std::size_t>(bytes.size(), 1));
  const auto pieces = read(bytes, data[0] % 16U + 1);
  require(whole.part == pieces.part && whole.status == pieces.status, "pieces do not matter");
  if (whole.part == Part::kBroken) return 0;
  require(whole.body == pieces.body && whole.taken == pieces.taken && whole.reusable == pieces.reusable,
          "pieces do not matter");
  return 0;
}
