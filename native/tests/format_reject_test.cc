// Headers that are refused, and the exact words for each.
#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "safetensors_bytes.h"

namespace weightstream {
namespace {

using testing::bytes;
using testing::file_of;
using testing::read_header;

struct Case {
  const char* name;
  std::string header;
  std::size_t data;  // bytes that follow the header
  std::string message;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class RejectedHeader : public ::testing::TestWithParam<Case> {};

TEST_P(RejectedHeader, SaysWhatIsWrong) {
  const auto header = read_header(file_of(GetParam().header, GetParam().data));
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.error().code, ErrorCode::kFormat);
  EXPECT_EQ(header.error().message, GetParam().message);
}

constexpr auto case_name = [](const auto& test) { return test.param.name; };

// A header whose only tensor, of 4 bytes unless a field says otherwise, has these fields.
std::string tensor(std::string_view fields) { return R"({"w":{)" + std::string(fields) + "}}"; }

constexpr const char* kMisplaced = "a comma, colon, quote or bracket is missing or misplaced";
constexpr const char* kWrongString = "a string has a wrong escape or half a surrogate pair";

std::string not_json(const std::string& why, int byte) {
  return "the header is not valid JSON: " + why + " (near byte " + std::to_string(byte) + " of the file)";
}

INSTANTIATE_TEST_SUITE_P(
    Json, RejectedHeader,
    ::testing::ValuesIn(std::vector<Case>{
        Case{"LoneBrace", "{", 0, "the header is not valid JSON: it does not end with the '}' of its object"},
        Case{"Blank", "   ", 0, "the header is blank; an object is expected"},
        Case{"NotUtf8", "{\"\xFF\":1}", 0, "the header is not UTF-8"},
        Case{"Utf8CutShort", "{\"\xE4\xB8\":1}", 0, "the header is not UTF-8"},
        Case{"Utf8OfASurrogate", "{\"\xED\xA0\x80\":1}", 0, "the header is not UTF-8"},
        Case{"OverlongUtf8", "{\"\xC0\xAF\":1}", 0, "the header is not UTF-8"},
        Case{"ByteOrderMark", "\xEF\xBB\xBF{}", 0, "the header begins with a byte order mark instead of '{'"},
        Case{"TopLevelArray", "[]", 0, "the header is an array; an object is expected"},
        Case{"TopLevelString", "\"{}\"", 0, "the header is \"{}\"; an object is expected"},
        Case{"TopLevelNumber", "17", 0, "the header is 17; an object is expected"},
        Case{"TopLevelNull", "null", 0, "the header is null; an object is expected"},
        Case{"TrailingJunk", "{}x", 0, "the header is not valid JSON: it does not end with the '}' of its object"},
        Case{"TrailingObject", "{} {}", 0, not_json("text follows its object", 11)},
        Case{"TrailingBrace", "{}}", 0, not_json("text follows its object", 10)},
        Case{"TrailingNul", bytes("{}\0"), 0, "the header is not valid JSON: it does not end with the '}' of its object"},
        Case{"TrailingFormFeed", "{}\f", 0, "the header is not valid JSON: it does not end with the '}' of its object"},
        Case{"CommaOnly", "{,}", 0, not_json(kMisplaced, 8)},
        Case{"TrailingComma", R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},})", 1, not_json(kMisplaced, 57)},
        Case{"TrailingCommaInEntry", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],)"), 1, not_json(kMisplaced, 57)},
        Case{"TrailingCommaInShape", tensor(R"("dtype":"U8","shape":[1,],"data_offsets":[0,1])"), 1, not_json("a value is missing", 38)},
        Case{"TrailingCommaInOffsets", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,])"), 1, not_json("a value is missing", 59)},
        Case{"MissingComma", tensor(R"("dtype":"U8" "shape":[1],"data_offsets":[0,1])"), 1, not_json(kMisplaced, 22)},
        Case{"MissingColon", tensor(R"("dtype" "U8","shape":[1],"data_offsets":[0,1])"), 1, not_json(kMisplaced, 9)},
        Case{"MissingValue", tensor(R"("dtype":,"shape":[1],"data_offsets":[0,1])"), 1, not_json("a value is missing", 22)},
        Case{"UnquotedKey", "{w:1}", 0, not_json(kMisplaced, 8)},
        Case{"SingleQuotes", "{'w':1}", 0, not_json(kMisplaced, 8)},
        Case{"Comment", "{/**/}", 0, not_json(kMisplaced, 8)},
        Case{"UnclosedString", "{\"w}", 0, "the header is not valid JSON: a string is not closed"},
        Case{"UnclosedEntry", R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})", 1, not_json(kMisplaced, 57)},
        Case{"UnclosedArray", tensor(R"("dtype":"U8","shape":[1,"data_offsets":[0,1])"), 1, "a dimension of 'w' is \"data_offsets\"; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"WrongBracket", tensor(R"("dtype":"U8","shape":[1},"data_offsets":[0,1])"), 1, not_json(kMisplaced, 36)},
        Case{"ControlCharacterInName", "{\"w\n\":1}", 0, "the header is not valid JSON: a string holds a control character"},
        Case{"WrongEscape", R"({"\x41":1})", 0, not_json(kWrongString, 9)},
        Case{"ShortUnicodeEscape", R"({"\u12":1})", 0, not_json(kWrongString, 9)},
        Case{"HighSurrogateInName", R"({"\ud800":1})", 0, not_json(kWrongString, 9)},
        Case{"LowSurrogateInName", R"({"\udc00":1})", 0, not_json(kWrongString, 9)},
        Case{"TwoHighSurrogates", R"({"\ud800\ud800":1})", 0, not_json(kWrongString, 9)},
        Case{"HighSurrogateBeforeText", R"({"\ud800x":1})", 0, not_json(kWrongString, 9)},
        Case{"HighSurrogateAtTheEnd", R"({"__metadata__":{"k":"\udbff"}})", 0, not_json(kWrongString, 29)},
        Case{"LowSurrogateInMetadata", R"({"__metadata__":{"k":"\udfff"}})", 0, not_json(kWrongString, 29)},
        Case{"SurrogateInUnknownValue",
             tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":["\ud800"])"), 1, not_json(kWrongString, 65)},
        Case{"NanDimension", tensor(R"("dtype":"U8","shape":[NaN],"data_offsets":[0,1])"), 1, not_json("NaN is not a value", 36)},
        Case{"NanInUnknownValue", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":NaN)"), 1, not_json("NaN is not a value", 64)},
        Case{"InfinityInUnknownValue", tensor(R"("x":-Infinity)"), 0, not_json("-Infinity is not a value", 18)},
        Case{"HugeNumberInUnknownValue", tensor(R"("x":1e999)"), 0, not_json("1e999 is not a value", 18)},
        Case{"LeadingZero", tensor(R"("dtype":"U8","shape":[01],"data_offsets":[0,1])"), 1, not_json("01 is not a value", 36)},
        Case{"LeadingZeroInUnknownValue", tensor(R"("x":01)"), 0, not_json("01 is not a value", 18)},
        Case{"LeadingPlus", tensor(R"("x":+1)"), 0, not_json("+1 is not a value", 18)},
        Case{"NoFraction", tensor(R"("x":1.)"), 0, not_json("1. is not a value", 18)},
        Case{"NoInteger", tensor(R"("x":.5)"), 0, not_json(".5 is not a value", 18)},
        Case{"NoExponent", tensor(R"("x":1e)"), 0, not_json("1e is not a value", 18)},
        Case{"MinusOnly", tensor(R"("x":-)"), 0, not_json("- is not a value", 18)},
        Case{"Hexadecimal", tensor(R"("x":0x10)"), 0, not_json("0x10 is not a value", 18)},
        Case{"ShortTrue", tensor(R"("x":tru)"), 0, not_json("tru is not a value", 18)},
        Case{"LongTrue", tensor(R"("x":truey)"), 0, not_json("truey is not a value", 18)},
        Case{"UpperFalse", tensor(R"("x":False)"), 0, not_json("False is not a value", 18)},
        Case{"ShortNull", tensor(R"("x":nul)"), 0, not_json("nul is not a value", 18)},
        Case{"LongNull", R"({"__metadata__":nullx})", 0, not_json("nullx is not a value", 24)},
        Case{"DeepArrays", tensor(R"("x":)" + std::string(126, '[') + std::string(126, ']')), 0, "the header nests deeper than 127 levels"},
        Case{"DeepObjects", [] {
               std::string open;
               for (int i = 0; i < 126; ++i) open += "{\"k\":";
               return tensor("\"x\":" + open + "0" + std::string(126, '}'));
             }(), 0, "the header nests deeper than 127 levels"},
        Case{"VeryDeepArrays", tensor(R"("x":)" + std::string(100000, '[') + std::string(100000, ']')), 0, "the header nests deeper than 127 levels"},
        Case{"DeepTopLevel", std::string(100000, '['), 0, "the header is an array; an object is expected"}}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    DuplicateKeys, RejectedHeader,
    ::testing::ValuesIn(std::vector<Case>{
        Case{
            "Tensors",
            R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            1, "the key 'w' occurs twice in the header"},
        Case{
            "TensorsOnceEscaped",
            R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0077":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
            2, "the key 'w' occurs twice in the header"},
        Case{"Metadata", R"({"__metadata__":{},"__metadata__":{}})", 0,
             "the key '__metadata__' occurs twice in the header"},
        Case{"MetadataKeys", R"({"__metadata__":{"format":"pt","format":"np"}})", 0,
             "the key 'format' occurs twice in __metadata__"},
        Case{"Fields", tensor(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1,
             "the key 'dtype' occurs twice in the entry of 'w'"},
        Case{"UnknownFields", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1,"x":1)"), 1,
             "the key 'x' occurs twice in the entry of 'w'"},
        Case{"InsideAnUnknownValue", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[{"k":1,"k":2}])"), 1,
             "the key 'k' occurs twice in one object"}}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Types, RejectedHeader,
    ::testing::ValuesIn(std::vector<Case>{
        Case{"EntryIsANumber", R"({"w":1})", 0,
             "the entry of 'w' is 1; an object with dtype, shape and data_offsets is expected"},
        Case{"EntryIsNull", R"({"w":null})", 0,
             "the entry of 'w' is null; an object with dtype, shape and data_offsets is expected"},
        Case{"EntryIsAnArray", R"({"w":["U8",[1],[0,1]]})", 1,
             "the entry of 'w' is an array; an object with dtype, shape and data_offsets is expected"},
        Case{"EntryIsAString", R"({"format":"pt"})", 0,
             "the entry of 'format' is \"pt\"; an object with dtype, shape and data_offsets is expected"},
        Case{"NoDtype", tensor(R"("shape":[1],"data_offsets":[0,1])"), 1, "the entry of 'w' has no dtype"},
        Case{"NoShape", tensor(R"("dtype":"U8","data_offsets":[0,1])"), 1, "the entry of 'w' has no shape"},
        Case{"NoOffsets", tensor(R"("dtype":"U8","shape":[1])"), 1, "the entry of 'w' has no data_offsets"},
        Case{"EmptyEntry", tensor(""), 0, "the entry of 'w' has no dtype"},
        Case{"UnknownDtype", tensor(R"("dtype":"F128","shape":[1],"data_offsets":[0,16])"), 16,
             "dtype of 'w' is 'F128', which is not a dtype of safetensors"},
        Case{"LowerCaseDtype", tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), 4,
             "dtype of 'w' is 'f32', which is not a dtype of safetensors"},
        Case{"DtypeIsANumber", tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,1])"), 1,
             "dtype of 'w' is 7; a string is expected"},
        Case{"DtypeIsNull", tensor(R"("dtype":null,"shape":[1],"data_offsets":[0,1])"), 1,
             "dtype of 'w' is null; a string is expected"},
        Case{"DtypeIsAnObject", tensor(R"("dtype":{"U8":null},"shape":[1],"data_offsets":[0,1])"), 1,
             "dtype of 'w' is an object; a string is expected"},
        Case{"ShapeIsANumber", tensor(R"("dtype":"U8","shape":1,"data_offsets":[0,1])"), 1,
             "shape of 'w' is 1; an array is expected"},
        Case{"ShapeIsNull", tensor(R"("dtype":"U8","shape":null,"data_offsets":[0,1])"), 1,
             "shape of 'w' is null; an array is expected"},
        Case{"NegativeDimension", tensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is -1; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"NegativeZero", tensor(R"("dtype":"U8","shape":[-0],"data_offsets":[0,0])"), 0,
             "a dimension of 'w' is -0; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"FractionalDimension", tensor(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is 1.0; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"ExponentDimension", tensor(R"("dtype":"U8","shape":[1e0],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is 1e0; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"StringDimension", tensor(R"("dtype":"U8","shape":["1"],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is \"1\"; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"NullDimension", tensor(R"("dtype":"U8","shape":[null],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is null; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"BoolDimension", tensor(R"("dtype":"U8","shape":[true],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is true; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"ArrayDimension", tensor(R"("dtype":"U8","shape":[[1]],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is an array; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"DimensionOf2To64", tensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1])"), 1,
             "a dimension of 'w' is 18446744073709551616; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"OffsetsAreANumber", tensor(R"("dtype":"U8","shape":[1],"data_offsets":1)"), 1,
             "data_offsets of 'w' is 1; an array is expected"},
        Case{"NoOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[])"), 1,
             "data_offsets of 'w' holds 0 numbers; 2 are expected, begin and end"},
        Case{"OneOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1])"), 1,
             "data_offsets of 'w' holds 1 number; 2 are expected, begin and end"},
        Case{"ThreeOffsets", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])"), 1,
             "data_offsets of 'w' holds 3 numbers; 2 are expected, begin and end"},
        Case{"NegativeOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[-1,0])"), 1,
             "an offset of 'w' is -1; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"FractionalOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1.5])"), 1,
             "an offset of 'w' is 1.5; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"StringOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":["0","1"])"), 1,
             "an offset of 'w' is \"0\"; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"NullOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,null])"), 1,
             "an offset of 'w' is null; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"BoolOffset", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[false,true])"), 1,
             "an offset of 'w' is false; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"OffsetOf2To64", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616])"), 1,
             "an offset of 'w' is 18446744073709551616; a whole number from 0 to 2^64 - 1 is expected"},
        Case{"MetadataIsAnArray", R"({"__metadata__":[]})", 0,
             "__metadata__ is an array; an object of strings is expected"},
        Case{"MetadataIsAString", R"({"__metadata__":"pt"})", 0,
             "__metadata__ is \"pt\"; an object of strings is expected"},
        Case{"MetadataValueIsANumber", R"({"__metadata__":{"step":7}})", 0,
             "the value of 'step' in __metadata__ is 7; a string is expected"},
        Case{"MetadataValueIsNull", R"({"__metadata__":{"step":null}})", 0,
             "the value of 'step' in __metadata__ is null; a string is expected"},
        Case{"MetadataValueIsAnObject", R"({"__metadata__":{"config":{}}})", 0,
             "the value of 'config' in __metadata__ is an object; a string is expected"}}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Rules, RejectedHeader,
    ::testing::ValuesIn(std::vector<Case>{
        Case{"NulInName", R"({"a\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
             "the tensor name 'a\\x00b' holds a NUL character"},
        Case{"EndBeforeBegin", tensor(R"("dtype":"U8","shape":[0],"data_offsets":[4,0])"), 0,
             "data_offsets of 'w' are [4, 0]: the end is before the begin"},
        Case{"FirstNotAtZero", tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])"), 8,
             "data_offsets of 'w' begin at 4; the first tensor must begin at 0"},
        Case{
            "Hole",
            R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})",
            12, "data_offsets of 'b' begin at 8, but 'a' before it ends at 4: a gap of 4 bytes"},
        Case{
            "Overlap",
            R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
            7, "data_offsets of 'b' begin at 3, but 'a' before it ends at 4: they overlap"},
        Case{
            "InsideAnother",
            R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
            8, "data_offsets of 'b' begin at 2, but 'a' before it ends at 8: they overlap"},
        Case{
            "EmptyInsideAnother",
            R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
            8, "data_offsets of 'b' begin at 2, but 'a' before it ends at 8: they overlap"},
        Case{"TenOnOneRange",
             [] {
               std::string json = "{";
               for (int i = 0; i < 10; ++i) {
                 json += (i == 0 ? "\"w" : ",\"w") + std::to_string(i) +
                         R"(":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})";
               }
               return json + "}";
             }(),
             16, "data_offsets of 'w1' begin at 0, but 'w0' before it ends at 16: they overlap"},
        Case{"TooFewBytes", tensor(R"("dtype":"I32","shape":[2,2],"data_offsets":[0,4])"), 4,
             "'w' (I32, shape [2, 2]) takes 16 bytes, but its data_offsets [0, 4] hold 4 bytes"},
        Case{"TooManyBytes", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,2])"), 2,
             "'w' (U8, shape [1]) takes 1 byte, but its data_offsets [0, 2] hold 2 bytes"},
        Case{"BytesForAnEmptyShape", tensor(R"("dtype":"U8","shape":[3,0],"data_offsets":[0,1])"), 1,
             "'w' (U8, shape [3, 0]) takes 0 bytes, but its data_offsets [0, 1] hold 1 byte"},
        Case{"ElementsOverflow", tensor(R"("dtype":"U8","shape":[2,18446744073709551614],"data_offsets":[0,16])"), 16,
             "the size of 'w' (U8, shape [2, 18446744073709551614]) is more than 64 bits can count"},
        Case{"SizeOverflow", tensor(R"("dtype":"I32","shape":[2,9223372036854775807],"data_offsets":[0,16])"), 16,
             "the size of 'w' (I32, shape [2, 9223372036854775807]) is more than 64 bits can count"},
        Case{"OverflowBeforeAZero", tensor(R"("dtype":"U8","shape":[9223372036854775808,4,0],"data_offsets":[0,0])"), 0,
             "the size of 'w' (U8, shape [9223372036854775808, 4, 0]) is more than 64 bits can count"},
        Case{"HalfByteF4", tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2,
             "'w' (F4, shape [3]) has 12 bits, which is not a whole number of bytes"},
        Case{"PartByteF6", tensor(R"("dtype":"F6_E2M3","shape":[2],"data_offsets":[0,2])"), 2,
             "'w' (F6_E2M3, shape [2]) has 12 bits, which is not a whole number of bytes"},
        Case{"LargestOffset",
             tensor(R"("dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951])"), 1,
             "data of 'w' ends at byte 2305843009213694048 but the file has 98 bytes: 2305843009213693950 bytes are "
             "missing"},
        Case{"EndPastAnyFile",
             [] {
               constexpr std::uint64_t kMost = (std::uint64_t{1} << 61U) - 1;  // bytes whose bits 64 bits can count
               std::string json;
               for (std::uint64_t i = 0; i < 8; ++i) {
                 json += i == 0 ? "{\"w" : ",\"w";
                 json += std::to_string(i) + R"(":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[)" +
                         std::to_string(i * kMost) + "," + std::to_string((i + 1) * kMost) + "]}";
               }
               return json + "}";
             }(),
             1, "data_offsets of 'w7' end at 18446744073709551608, which no file can reach"},
        Case{"DataShort", tensor(R"("dtype":"U8","shape":[40],"data_offsets":[0,40])"), 20,
             "data of 'w' ends at byte 103 but the file has 83 bytes: 20 bytes are missing"},
        Case{"DataShortByOne", tensor(R"("dtype":"U8","shape":[40],"data_offsets":[0,40])"), 39,
             "data of 'w' ends at byte 103 but the file has 102 bytes: 1 byte is missing"},
        Case{"NoData", tensor(R"("dtype":"U8","shape":[40],"data_offsets":[0,40])"), 0,
             "data of 'w' ends at byte 103 but the file has 63 bytes: 40 bytes are missing"},
        Case{"TrailingBytes", tensor(R"("dtype":"U8","shape":[40],"data_offsets":[0,40])"), 47,
             "data of 'w' ends at byte 103 but the file has 110 bytes: 7 bytes too many"},
        Case{"BytesAfterAnEmptyHeader", "{}", 5, "the header names no tensor, but 5 bytes follow it"},
        Case{"HostileName", "{\"\\u001b[31m\\n\":1}", 0,
             "the entry of '\\x1b[31m\\x0a' is 1; an object with dtype, shape and data_offsets is expected"},
        Case{"LongName", "{\"" + std::string(5000, 'n') + "\":1}", 0,
             "the entry of "
             "'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...'"
             " (5000 bytes) is 1; an object with dtype, shape and data_offsets is expected"}}),
    case_name);

TEST(RejectedHeader, CarriesTheNumbers) {
  const auto header = read_header(file_of(tensor(R"("dtype":"U8","shape":[40],"data_offsets":[0,40])"), 20));
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.error().expected, 103U);
  EXPECT_EQ(header.error().got, 83U);
}

}  // namespace
}  // namespace weightstream
