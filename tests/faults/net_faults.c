// Faults of the network for tests: names that resolve as the test says, and connections that fail. A test preloads this
// library, and tells it through net_*() what shall happen. Only names that end in ".test" count, and only connections
// over IPv4 to the ports that were named.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_ADDRESSES = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct in_addr addresses[MOST_ADDRESSES];
static int address_count;
static int resolve_error;  // what getaddrinfo returns
static long resolve_fails;  // the first so many times; -1: always
static long resolve_stalls;  // seconds that it takes
static long resolutions;
static int connect_port;
static int connect_error;
static long connect_at;  // the connection that fails, from 1; -1: all
static long connections;

// Names resolve to these addresses, separated by commas.
void net_addresses(const char *list) {
  char copy[256];
  char *rest = copy;
  strncpy(copy, list, sizeof copy - 1);
  copy[sizeof copy - 1] = '\0';
  pthread_mutex_lock(&lock);
  address_count = 0;
  for (char *one; (one = strsep(&rest, ",")) != NULL && address_count < MOST_ADDRESSES;) {
    inet_pton(AF_INET, one, &addresses[address_count++]);
  }
  pthread_mutex_unlock(&lock);
}

void net_resolve_fails(int error, long times, long stall) {
  pthread_mutex_lock(&lock);
  resolve_error = error;
  resolve_fails = times;
  resolve_stalls = stall;
  resolutions = 0;
  pthread_mutex_unlock(&lock);
}

void net_connect_fails(int port, int error, long at) {
  pthread_mutex_lock(&lock);
  connect_port = port;
  connect_error = error;
  connect_at = at;
  connections = 0;
  pthread_mutex_unlock(&lock);
}

long net_resolutions(void) { return resolutions; }
long net_connections(void) { return connections; }

static int is_ours(const char *name) {
  const size_t length = name == NULL ? 0 : strlen(name);
  return length > 5 && strcmp(name + length - 5, ".test") == 0;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
  typedef int function(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  function *real = (function *)dlsym(RTLD_NEXT, "getaddrinfo");
  if (!is_ours(name)) return real(name, service, hints, result);

  pthread_mutex_lock(&lock);
  const int fails = resolve_fails < 0 || resolutions < resolve_fails;
  const int error = resolve_error;
  const long stalls = resolve_stalls;
  const int count = address_count;
  ++resolutions;
  pthread_mutex_unlock(&lock);
  if (stalls > 0) sleep((unsigned)stalls);
  if (fails) return error;
  struct addrinfo *first = NULL;
  struct addrinfo **next = &first;
  for (int i = 0; i < count; ++i) {
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &addresses[i], text, sizeof text);
    const int status = real(text, service, hints, next);
    if (status != 0) return status;
    while (*next != NULL) next = &(*next)->ai_next;
  }
  *result = first;
  return first == NULL ? EAI_NONAME : 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  typedef int function(int, const struct sockaddr *, socklen_t);
  function *real = (function *)dlsym(RTLD_NEXT, "connect");
  const struct sockaddr_in *to = (const struct sockaddr_in *)address;
  if (address->sa_family != AF_INET || length < sizeof *to) return real(fd, address, length);

  pthread_mutex_lock(&lock);
  const int counts = connect_port != 0 && ntohs(to->sin_port) == connect_port;
  if (counts) ++connections;
  const int fails = counts && (connect_at < 0 || connections == connect_at);
  const int error = connect_error;
  pthread_mutex_unlock(&lock);
  if (!fails) return real(fd, address, length);
  errno = error;
  return -1;
}
