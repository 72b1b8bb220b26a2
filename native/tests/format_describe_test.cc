#include "format/describe.h"

#include <gtest/gtest.h>

#include <vector>

namespace weightstream {
namespace {

TEST(Quoted, KeepsPlainAndInternationalText) {
  EXPECT_EQ(quoted_text("model.layers.0"), "'model.layers.0'");
  EXPECT_EQ(quoted_text(""), "''");
  EXPECT_EQ(quoted_text("\u00e4\u4e2d"), "'\u00e4\u4e2d'");
}

TEST(Quoted, EscapesWhatCouldForgeALineOrDriveATerminal) {
  EXPECT_EQ(quoted_text("a\nb\x1B[2J"), "'a\\x0ab\\x1b[2J'");
  EXPECT_EQ(quoted_text(std::string_view("\0\x7F", 2)), "'\\x00\\x7f'");
  EXPECT_EQ(quoted_text("\u009B2J"), "'\\x9b2J'");  // CSI as one C1 character
  EXPECT_EQ(quoted_text("\u00a0"), "'\u00a0'");
  EXPECT_EQ(quoted_text("it's \\"), "'it\\'s \\\\'");
}

TEST(Quoted, CutsLongTextBetweenCharacters) {
  EXPECT_EQ(quoted_text(std::string(100, 'a')), "'" + std::string(100, 'a') + "'");
  EXPECT_EQ(quoted_text(std::string(101, 'a')), "'" + std::string(100, 'a') + "...' (101 bytes)");
  EXPECT_EQ(quoted_text(std::string(99, 'a') + "\u00e4"), "'" + std::string(99, 'a') + "...' (101 bytes)");
}

TEST(ShapeText, ShowsTheFirstDimensions) {
  EXPECT_EQ(shape_text(std::vector<std::uint64_t>{}), "[]");
  EXPECT_EQ(shape_text(std::vector<std::uint64_t>{2, 3}), "[2, 3]");
  EXPECT_EQ(shape_text(std::vector<std::uint64_t>(9, 1)), "[1, 1, 1, 1, 1, 1, 1, 1, ...]");
}

TEST(JsonValueText, NamesContainersAndShowsScalars) {
  EXPECT_EQ(json_value_text("{ "), "an object");
  EXPECT_EQ(json_value_text("["), "an array");
  EXPECT_EQ(json_value_text("-1 \n"), "-1");
  EXPECT_EQ(json_value_text("\"a\\nb\""), "\"a\\\\nb\"");
  EXPECT_EQ(json_value_text(std::string(200, '9')), std::string(100, '9') + "... (200 bytes)");
}

TEST(ByteCount, HasASingular) {
  EXPECT_EQ(byte_count(0), "0 bytes");
  EXPECT_EQ(byte_count(1), "1 byte");
}

}  // namespace
}  // namespace weightstream
