// The budget: a limit, one documented overshoot, exact books.
#include "memory/budget.h"

#include <gtest/gtest.h>

namespace weightstream {
namespace {

TEST(Budget, AdmitsUpToTheLimit) {
  Budget budget(100);
  EXPECT_TRUE(budget.try_take(60, 0));
  EXPECT_FALSE(budget.try_take(41, 0));
  EXPECT_TRUE(budget.try_take(40, 0));
  EXPECT_FALSE(budget.try_take(1, 0));
  EXPECT_EQ(budget.used(), 100U);
}

TEST(Budget, RefusalTakesNothing) {
  Budget budget(100);
  EXPECT_FALSE(budget.try_take(101, 0));
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_EQ(budget.peak(), 0U);
}

TEST(Budget, FloorLetsTheOldestTensorThrough) {
  Budget budget(100);
  EXPECT_TRUE(budget.try_take(100, 250));
  EXPECT_TRUE(budget.try_take(150, 250));
  EXPECT_FALSE(budget.try_take(1, 250));
  EXPECT_EQ(budget.peak(), 250U);
}

TEST(Budget, FloorBelowTheLimitChangesNothing) {
  Budget budget(100);
  EXPECT_TRUE(budget.try_take(100, 10));
  EXPECT_FALSE(budget.try_take(1, 10));
}

TEST(Budget, GivenBackBytesCanBeTakenAgainAndThePeakStays) {
  Budget budget(100);
  EXPECT_TRUE(budget.try_take(80, 0));
  budget.give_back(50);
  EXPECT_EQ(budget.used(), 30U);
  EXPECT_TRUE(budget.try_take(70, 0));
  budget.give_back(100);
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_EQ(budget.peak(), 100U);
  EXPECT_EQ(budget.limit(), 100U);
}

}  // namespace
}  // namespace weightstream
