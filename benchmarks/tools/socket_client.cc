// The least that a client can do: blocking sockets, one thread each, that ask for ranges of one object in turn and
// receive every byte straight into its place in fresh memory. No TLS, no retries, no versions. It is what loaders are
// compared with, so it is a library that the benchmark's worker calls, measured like any of them.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

extern "C" {

// What benchmark_fetch leaves; give it to benchmark_free.
struct BenchmarkObject {
  char* bytes;
  std::uint64_t size;
  void* mapping;
  std::uint64_t mapped;
  char error[256];
};

// Reads the object at http://address:port/path by `connections` sockets, `range_bytes` at a time. Returns 0, or 1 with
// object->error. Not for two threads at once with one object.
int benchmark_fetch(const char* address, int port, const char* path, int connections, std::uint64_t range_bytes,
                    BenchmarkObject* object);
void benchmark_free(BenchmarkObject* object);
}

namespace {

constexpr std::uint64_t kHugePage = 2 << 20;

class Socket {
 public:
  Socket(const char* address, int port) : number_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in peer{};
    peer.sin_family = AF_INET;
    peer.sin_port = htons(static_cast<std::uint16_t>(port));
    if (number_ < 0 || inet_pton(AF_INET, address, &peer.sin_addr) != 1) throw std::runtime_error("bad address");
    const int on = 1;
    setsockopt(number_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(number_, reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) {
      close(number_);
      throw std::runtime_error(std::string("connect: ") + std::strerror(errno));
    }
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(number_); }

  void send_all(std::string_view text) {
    while (!text.empty()) {
      const auto count = send(number_, text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) throw std::runtime_error(std::string("send: ") + std::strerror(errno));
      text.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  // At least one byte, at most `room`; with `all`, exactly `room`.
  std::size_t receive(char* to, std::size_t room, bool all) {
    std::size_t filled = 0;
    do {
      const auto count = recv(number_, to + filled, room - filled, all ? MSG_WAITALL : 0);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw std::runtime_error(std::string("recv: ") + std::strerror(errno));
      if (count == 0) throw std::runtime_error("the server closed the connection");
      filled += static_cast<std::size_t>(count);
    } while (all && filled < room);
    return filled;
  }

 private:
  int number_;
};

// One request and the head of its response.
struct Answer {
  std::uint64_t object_size = 0;
  std::array<char, 4096> buffer;
  std::string_view body;  // what came along with the head
};

void ask(Socket& socket, const std::string& path, std::uint64_t begin, std::uint64_t end, Answer& answer) {
  socket.send_all("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nRange: bytes=" + std::to_string(begin) + "-" +
                  std::to_string(end - 1) + "\r\n\r\n");
  std::size_t filled = 0;
  std::size_t head = std::string_view::npos;
  while (head == std::string_view::npos) {
    if (filled == answer.buffer.size()) throw std::runtime_error("a response's head is longer than 4 KiB");
    filled += socket.receive(answer.buffer.data() + filled, answer.buffer.size() - filled, false);
    head = std::string_view(answer.buffer.data(), filled).find("\r\n\r\n");
  }
  const std::string_view text(answer.buffer.data(), head);
  if (!text.starts_with("HTTP/1.1 206"))
    throw std::runtime_error("not a 206: " + std::string(text.substr(0, text.find("\r\n"))));
  constexpr std::string_view kName = "Content-Range: bytes ";
  const auto at = text.find(kName);
  const auto slash = at == std::string_view::npos ? at : text.find('/', at);
  if (slash == std::string_view::npos) throw std::runtime_error("no Content-Range");
  std::from_chars(text.data() + slash + 1, text.data() + text.size(), answer.object_size);
  answer.body = std::string_view(answer.buffer.data() + head + 4, filled - head - 4);
}

void fetch_range(Socket& socket, const std::string& path, std::uint64_t begin, std::uint64_t end, char* to) {
  Answer answer;
  ask(socket, path, begin, end, answer);
  if (answer.body.size() > end - begin) throw std::runtime_error("more bytes than asked for");
  std::memcpy(to + begin, answer.body.data(), answer.body.size());
  const auto left = end - begin - answer.body.size();
  if (left > 0) socket.receive(to + begin + answer.body.size(), left, true);
}

std::uint64_t size_of(const char* address, int port, const std::string& path) {
  Socket socket(address, port);
  Answer answer;
  ask(socket, path, 0, 1, answer);
  return answer.object_size;
}

void map_memory(BenchmarkObject& object) {
  object.mapped = (object.size + 2 * kHugePage - 1) / kHugePage * kHugePage;
  object.mapping =
      mmap(nullptr, object.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (object.mapping == MAP_FAILED) {
    object.mapping = nullptr;
    throw std::runtime_error(std::string("mmap: ") + std::strerror(errno));
  }
  const auto start = reinterpret_cast<std::uintptr_t>(object.mapping);
  object.bytes = reinterpret_cast<char*>((start + kHugePage - 1) / kHugePage * kHugePage);
  madvise(object.mapping, object.mapped, MADV_HUGEPAGE);
}

}  // namespace

int benchmark_fetch(const char* address, int port, const char* path, int connections, std::uint64_t range_bytes,
                    BenchmarkObject* object) {
  *object = {};
  std::mutex mutex;
  std::string error;
  const auto failed = [&](const std::exception& what) {
    const std::lock_guard lock(mutex);
    error = what.what();
  };
  try {
    object->size = size_of(address, port, path);
    map_memory(*object);
    std::atomic<std::uint64_t> next = 0;
    const auto work = [&] {
      try {
        Socket socket(address, port);
        for (std::uint64_t at; (at = next.fetch_add(range_bytes)) < object->size;) {
          fetch_range(socket, path, at, std::min(at + range_bytes, object->size), object->bytes);
        }
      } catch (const std::exception& what) {
        failed(what);
      }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < connections; ++i) threads.emplace_back(work);
    for (auto& thread : threads) thread.join();
  } catch (const std::exception& what) {
    failed(what);
  }
  if (error.empty()) return 0;
  std::strncpy(object->error, error.c_str(), sizeof object->error - 1);
  benchmark_free(object);
  return 1;
}

void benchmark_free(BenchmarkObject* object) {
  if (object->mapping != nullptr) munmap(object->mapping, object->mapped);
  object->mapping = nullptr;
  object->bytes = nullptr;
}
