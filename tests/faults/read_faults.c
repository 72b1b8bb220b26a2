// Faults of pread(2) for tests. A test preloads this library, and tells it through fault_arm() which reads go wrong.
//
// Only reads of files whose path contains `path_part` count.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { FAULT_NONE = 0, FAULT_SHORT = -1, FAULT_END = -2 };  // positive: that errno

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char armed_path[4096];
static int armed_kind;
static long armed_at;     // the read that goes wrong, from 1; -n: every n-th
static long armed_delay;  // milliseconds before each read
static long calls;
static long fired;

void fault_arm(const char *path_part, int kind, long at, long delay) {
  pthread_mutex_lock(&lock);
  snprintf(armed_path, sizeof armed_path, "%s", path_part);
  armed_kind = kind;
  armed_at = at;
  armed_delay = delay;
  calls = fired = 0;
  pthread_mutex_unlock(&lock);
}

long fault_calls(void) { return calls; }
long fault_fired(void) { return fired; }

static int is_armed(int fd) {
  char link[64];
  char path[4096];
  if (armed_path[0] == '\0') return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return strstr(path, armed_path) != NULL;
}

static ssize_t faulty_pread(const char *name, int fd, void *into, size_t count, off_t offset) {
  ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, name);
  if (!is_armed(fd)) return real(fd, into, count, offset);

  pthread_mutex_lock(&lock);
  ++calls;
  const int now = armed_kind != FAULT_NONE && (armed_at > 0 ? calls == armed_at : calls % -armed_at == 0);
  const int kind = armed_kind;
  const long delay = armed_delay;
  if (now) ++fired;
  pthread_mutex_unlock(&lock);

  if (delay > 0) {
    const struct timespec wait = {delay / 1000, delay % 1000 * 1000000};
    nanosleep(&wait, NULL);
  }
  if (!now) return real(fd, into, count, offset);
  if (kind == FAULT_END) return 0;
  if (kind == FAULT_SHORT) return real(fd, into, count / 2 + 1, offset);
  memset(into, 0xEE, count / 2);  // a read that fails may have written some of it
  errno = kind;
  return -1;
}

ssize_t pread(int fd, void *into, size_t count, off_t offset) {
  return faulty_pread("pread", fd, into, count, offset);
}
ssize_t pread64(int fd, void *into, size_t count, off_t offset) {
  return faulty_pread("pread64", fd, into, count, offset);
}
