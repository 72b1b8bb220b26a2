// What executes reads, and what a caller may ask for.
#pragma once

#include <cstdint>

namespace weightstream {

// What the caller asks for; of local files. Objects over HTTP have one reader. kGds is taken where it works, and is
// kAuto elsewhere.
enum class Backend : std::uint8_t { kAuto, kUring, kPread, kMmap, kGds };

// What executes the reads.
enum class ReaderKind : std::uint8_t { kUring, kPread, kMmap, kInline, kHttp, kGds };
inline constexpr ReaderKind kReaderKinds[] = {ReaderKind::kUring,  ReaderKind::kPread, ReaderKind::kMmap,
                                              ReaderKind::kInline, ReaderKind::kHttp,  ReaderKind::kGds};

}  // namespace weightstream
