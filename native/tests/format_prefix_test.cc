// The first 8 bytes of a file, and files of another kind.
#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "safetensors_bytes.h"

namespace weightstream {
namespace {

using testing::bytes;

struct Case {
  const char* name;
  std::string file;
  std::string message;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class RejectedPrefix : public ::testing::TestWithParam<Case> {};

TEST_P(RejectedPrefix, SaysWhatIsWrong) {
  const std::string& file = GetParam().file;
  const auto length = header_length(std::as_bytes(std::span(file)), file.size());
  ASSERT_FALSE(length.ok());
  EXPECT_EQ(length.error().code, ErrorCode::kFormat);
  EXPECT_EQ(length.error().message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Format, RejectedPrefix,
    ::testing::ValuesIn(std::vector<Case>{
        Case{"Empty", "", "the file is empty"},
        Case{"OneByte", "{", "the file has 1 byte; a safetensors file begins with 8 bytes that hold the header length"},
        Case{"SevenBytes", bytes("\x02\0\0\0\0\0\0"),
             "the file has 7 bytes; a safetensors file begins with 8 bytes that hold the header length"},
        Case{"ZeroLength", bytes("\0\0\0\0\0\0\0\0"), "the header length is 0; the shortest header is '{}'"},
        Case{"OverTheLimit", bytes("\x01\xE1\xF5\x05\0\0\0\0{}"),
             "the header length is 100000001, over the limit of 100000000: this is not a safetensors file, or its "
             "first bytes are damaged"},
        Case{"AllBitsSet", bytes("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}"),
             "the header length is 18446744073709551615, over the limit of 100000000: this is not a safetensors "
             "file, or its first bytes are damaged"},
        Case{"LengthOnly", bytes("\x02\0\0\0\0\0\0\0"),
             "the header ends at byte 10 but the file has 8 bytes: 2 bytes are missing"},
        Case{"TruncatedHeader", bytes("\x03\0\0\0\0\0\0\0{}"),
             "the header ends at byte 11 but the file has 10 bytes: 1 byte is missing"},
        Case{"GitLfsPointer",
             "version https://git-lfs.github.com/spec/v1\noid "
             "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n",
             "this is a Git LFS pointer, not the file it stands for: fetch the file with 'git lfs pull'"},
        Case{"HtmlDoctype", "\r\n<!DOCTYPE HTML><html><title>Sign in</title></html>",
             "this is an HTML page, not a safetensors file: a server answered with a web page (login, error or "
             "landing page) when the file was downloaded; download the file itself"},
        Case{"HtmlShort", "<html>",
             "this is an HTML page, not a safetensors file: a server answered with a web page (login, error or "
             "landing page) when the file was downloaded; download the file itself"},
        Case{"HtmlAfterByteOrderMark", "\xEF\xBB\xBF<html><body>502 Bad Gateway</body></html>",
             "this is an HTML page, not a safetensors file: a server answered with a web page (login, error or "
             "landing page) when the file was downloaded; download the file itself"},
        Case{"XmlError", "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
             "this is an XML document, not a safetensors file: often the error response of an object store, saved in "
             "its place"},
        Case{"ZipArchive", bytes("PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0archive/data.pkl"),
             "this is a zip archive, not a safetensors file: often a PyTorch checkpoint (.pt, .bin), which has to be "
             "converted"}}),
    [](const auto& test) { return test.param.name; });

TEST(HeaderLength, IsReadLittleEndian) {
  const std::string prefix = bytes("\x01\x02\0\0\0\0\0\0");
  const auto length = header_length(std::as_bytes(std::span(prefix)), 1 << 20);
  ASSERT_TRUE(length.ok());
  EXPECT_EQ(*length, 0x201U);
}

TEST(HeaderLength, MayBeTheLimit) {
  const std::string prefix = testing::little_endian(kMaxHeaderBytes);
  const auto length = header_length(std::as_bytes(std::span(prefix)), kMaxHeaderBytes + 8);
  ASSERT_TRUE(length.ok());
  EXPECT_EQ(*length, kMaxHeaderBytes);
}

TEST(HeaderLength, NeedsTheWholePrefix) {
  const std::string prefix = bytes("\x02\0\0");
  const auto length = header_length(std::as_bytes(std::span(prefix)), 100);
  ASSERT_FALSE(length.ok());
  EXPECT_EQ(length.error().code, ErrorCode::kTruncated);
  EXPECT_EQ(length.error().message, "only 3 bytes of the 8 bytes of the header length were read");
}

TEST(HeaderLength, HasNoNumbersForAFileOfAnotherKind) {
  const std::string page = "<html></html>";
  const auto length = header_length(std::as_bytes(std::span(page)), page.size());
  ASSERT_FALSE(length.ok());
  EXPECT_EQ(length.error().expected, std::nullopt);
  EXPECT_EQ(length.error().got, std::nullopt);
}

TEST(HeaderLength, TellsNumbersApartFromWords) {
  const std::string prefix = bytes("\x03\0\0\0\0\0\0\0{}");
  const auto length = header_length(std::as_bytes(std::span(prefix)), prefix.size());
  ASSERT_FALSE(length.ok());
  EXPECT_EQ(length.error().range, (ByteRange{0, 8}));
  EXPECT_EQ(length.error().expected, 11U);
  EXPECT_EQ(length.error().got, 10U);
}

}  // namespace
}  // namespace weightstream
