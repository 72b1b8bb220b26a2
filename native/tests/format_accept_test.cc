// Headers that are valid, and what is read from them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "safetensors_bytes.h"

namespace weightstream {
namespace {

using testing::file_of;
using testing::read_header;

std::vector<std::string> names(const Header& header) {
  std::vector<std::string> out;
  out.reserve(header.size());
  for (std::size_t i = 0; i < header.size(); ++i) out.emplace_back(header.name(i));
  return out;
}

// The header of `file`; a test failure if there is none.
Header accepted(const std::string& file) {
  auto header = read_header(file);
  EXPECT_TRUE(header.ok()) << (header.ok() ? "" : header.error().message);
  return header.ok() ? std::move(header).value() : Header{};
}

TEST(AcceptedHeader, OneTensor) {
  const auto header = accepted(file_of(R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", 24));
  ASSERT_EQ(header.size(), 1U);
  EXPECT_EQ(header.name(0), "w");
  EXPECT_EQ(header.dtype(0), Dtype::kF32);
  EXPECT_EQ(std::vector(header.shape(0).begin(), header.shape(0).end()), (std::vector<std::uint64_t>{2, 3}));
  EXPECT_EQ(header.data_begin(), 8U + 57U);
  EXPECT_EQ(header.range(0), (ByteRange{65, 89}));
  EXPECT_FALSE(header.has_metadata());
  EXPECT_TRUE(header.metadata().empty());
}

TEST(AcceptedHeader, NoTensors) { EXPECT_EQ(accepted(file_of("{}")).size(), 0U); }

TEST(AcceptedHeader, BlanksAroundTheObject) {
  EXPECT_EQ(accepted(file_of("\t\n{}\r ")).size(), 0U);
  EXPECT_EQ(accepted(file_of(" { } ")).size(), 0U);
}

TEST(AcceptedHeader, ScalarHasAnEmptyShape) {
  const auto header = accepted(file_of(R"({"w":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})", 4));
  ASSERT_EQ(header.size(), 1U);
  EXPECT_TRUE(header.shape(0).empty());
  EXPECT_EQ(header.range(0).size(), 4U);
}

TEST(AcceptedHeader, ZeroDimension) {
  const auto header = accepted(file_of(R"({"w":{"dtype":"I32","shape":[2,0],"data_offsets":[0,0]}})"));
  ASSERT_EQ(header.size(), 1U);
  EXPECT_TRUE(header.range(0).empty());
}

// Tensors without bytes share an offset with their neighbours, wherever their keys stand.
TEST(AcceptedHeader, EmptyTensorsShareOffsetsInAnyKeyOrder) {
  constexpr std::array<std::string_view, 4> kFields = {
      R"("full":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})",
      R"("before":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})",
      R"("after":{"dtype":"U8","shape":[0],"data_offsets":[4,4]})",
      R"("also_after":{"dtype":"F64","shape":[3,0],"data_offsets":[4,4]})",
  };
  std::array<std::size_t, 4> order = {0, 1, 2, 3};
  do {
    std::string json;
    for (const std::size_t i : order) {
      json += json.empty() ? '{' : ',';
      json += kFields[i];
    }
    json += '}';
    const auto header = accepted(file_of(json, 4));
    ASSERT_EQ(header.size(), 4U);
    EXPECT_EQ(header.name(0), "before");
    EXPECT_EQ(header.name(1), "full");
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(AcceptedHeader, TensorsComeInFileOrderWhateverTheOrderOfTheKeys) {
  const auto header = accepted(file_of(R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},)"
                                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                       R"("z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
                                       R"("y":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
                                       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                       3));
  EXPECT_EQ(names(header), (std::vector<std::string>{"a", "z", "y", "b", "c"}));
}

TEST(AcceptedHeader, UnalignedOffsets) {
  const auto header = accepted(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                       R"("b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})",
                                       9));
  EXPECT_EQ(header.range(1).begin - header.data_begin(), 1U);
}

TEST(AcceptedHeader, UnknownKeysOfATensorHoldAnything) {
  const auto header =
      accepted(file_of(R"({"w":{"extra":{"a":[1,-2.5e3,true,false,null,"\u00e9",{}],"b":[]},"dtype":"U8","shape":[1],)"
                       R"("more":123456789012345678901234567890,"data_offsets":[0,1],"":"empty key"}})",
                       1));
  EXPECT_EQ(names(header), std::vector<std::string>{"w"});
}

TEST(AcceptedHeader, KeysOfOneTensorInAnyOrder) {
  const auto header = accepted(file_of(R"({"w":{"data_offsets":[0,2],"shape":[2],"dtype":"U8"}})", 2));
  EXPECT_EQ(header.dtype(0), Dtype::kU8);
}

TEST(AcceptedHeader, EscapesMeanWhatTheyStandFor) {
  const auto header = accepted(file_of(R"({"\u0077\n\ud83d\ude00":{"d\u0074ype":"\u00558","shape":[1],)"
                                       R"("data_offsets":[0,1]},"\u005f_metadata__":{"k\"":"\\v"}})",
                                       1));
  EXPECT_EQ(names(header), std::vector<std::string>{"w\n\U0001F600"});
  EXPECT_EQ(header.dtype(0), Dtype::kU8);
  ASSERT_EQ(header.metadata().size(), 1U);
  EXPECT_EQ(header.metadata()[0], (std::pair<std::string, std::string>{"k\"", "\\v"}));
}

TEST(AcceptedHeader, NamesAreAnyText) {
  const auto header = accepted(file_of(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                       "\"\u00e4/../\u4e2d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                                       2));
  EXPECT_EQ(names(header), (std::vector<std::string>{"", "\u00e4/../\u4e2d"}));
}

TEST(AcceptedHeader, MetadataKeepsTheOrderOfItsKeys) {
  const auto header = accepted(file_of(R"({"__metadata__":{"z":"1","a":"","format":"pt"}})"));
  EXPECT_TRUE(header.has_metadata());
  ASSERT_EQ(header.metadata().size(), 3U);
  EXPECT_EQ(header.metadata()[0].first, "z");
  EXPECT_EQ(header.metadata()[1].second, "");
  EXPECT_EQ(header.metadata()[2], (std::pair<std::string, std::string>{"format", "pt"}));
  EXPECT_EQ(header.size(), 0U);
}

TEST(AcceptedHeader, EmptyMetadataIsThere) { EXPECT_TRUE(accepted(file_of(R"({"__metadata__":{}})")).has_metadata()); }

TEST(AcceptedHeader, NullMetadataIsAbsent) {
  EXPECT_FALSE(accepted(file_of(R"({"__metadata__":null})")).has_metadata());
}

TEST(AcceptedHeader, NestsUpToTheBound) {
  const std::string open(125, '[');
  const std::string close(125, ']');
  accepted(file_of(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":)" + open + close + "}}"));
}

// The header alone: a source of 2^60 bytes is only a number here.
TEST(AcceptedHeader, HugeTensor) {
  const std::string json =
      R"({"w":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}})";
  HeaderBytes header_bytes(json.size());
  std::memcpy(header_bytes.data(), json.data(), json.size());
  const auto header = parse_header(header_bytes, 8 + json.size() + (std::uint64_t{1} << 60U));
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->range(0).size(), std::uint64_t{1} << 60U);
}

struct DtypeCase {
  const char* name;
  std::uint64_t elements;  // of one tensor
  std::uint64_t size;      // its bytes
};

class AcceptedDtype : public ::testing::TestWithParam<DtypeCase> {};

TEST_P(AcceptedDtype, HasItsSize) {
  const auto& [name, elements, size] = GetParam();
  const auto header =
      accepted(file_of(R"({"w":{"dtype":")" + std::string(name) + R"(","shape":[)" + std::to_string(elements) +
                           R"(],"data_offsets":[0,)" + std::to_string(size) + "]}}",
                       size));
  ASSERT_EQ(header.size(), 1U);
  EXPECT_EQ(info(header.dtype(0)).name, name);
}

INSTANTIATE_TEST_SUITE_P(Format, AcceptedDtype,
                         ::testing::ValuesIn(std::vector<DtypeCase>{
                             DtypeCase{"BOOL", 4, 4},        DtypeCase{"F4", 4, 2},          DtypeCase{"F6_E2M3", 4, 3},
                             DtypeCase{"F6_E3M2", 4, 3},     DtypeCase{"U8", 4, 4},          DtypeCase{"I8", 4, 4},
                             DtypeCase{"F8_E5M2", 4, 4},     DtypeCase{"F8_E4M3", 4, 4},     DtypeCase{"F8_E8M0", 4, 4},
                             DtypeCase{"F8_E4M3FNUZ", 4, 4}, DtypeCase{"F8_E5M2FNUZ", 4, 4}, DtypeCase{"I16", 4, 8},
                             DtypeCase{"U16", 4, 8},         DtypeCase{"F16", 4, 8},         DtypeCase{"BF16", 4, 8},
                             DtypeCase{"I32", 4, 16},        DtypeCase{"U32", 4, 16},        DtypeCase{"F32", 4, 16},
                             DtypeCase{"C64", 4, 32},        DtypeCase{"F64", 4, 32},        DtypeCase{"I64", 4, 32},
                             DtypeCase{"U64", 4, 32}}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace weightstream
