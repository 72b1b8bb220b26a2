// How much memory there is: the numbers come from the running system, so their bounds are checked.
#include "memory/system_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace weightstream {
namespace {

TEST(AvailableMemory, IsSomethingAndNotMoreThanTheMachineHas) {
  const auto machine =
      static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto available = available_memory();
  EXPECT_GT(available, 0U);
  EXPECT_LE(available, machine);
}

// A control group with a limit below the machine's memory is obeyed. Only where one is in force is there something to
// compare with.
TEST(AvailableMemory, StaysUnderTheLimitOfTheControlGroup) {
  std::uint64_t limit = 0;
  std::ifstream file("/sys/fs/cgroup/memory.max");
  if (!(file >> limit)) GTEST_SKIP() << "no limit at the top of the control groups of this process";
  EXPECT_LE(available_memory(), limit);
}

}  // namespace
}  // namespace weightstream
