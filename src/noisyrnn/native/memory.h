// Memory used again from call to call: fresh pages from the system would cost more than a short pass does.
#pragma once
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

// Memory that begins with a line of the cache: a vector that lies across two lines takes twice as long to load.
template <class T>
struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return (T*)::operator new(n * sizeof(T), std::align_val_t(64)); }
  void deallocate(T* p, size_t) { ::operator delete((void*)p, std::align_val_t(64)); }
  template <class U>
  bool operator==(const Aligned<U>&) const { return true; }
  template <class U>
  bool operator!=(const Aligned<U>&) const { return false; }
};
template <class T>
using Vector = std::vector<T, Aligned<T>>;

// Blocks of memory at powers of two from one another would meet in the same few lines of the first cache.
constexpr int64_t APART = 64 / sizeof(float);

class Memory {
 public:
  static constexpr size_t SMALL = 1 << 16, MOST = 1 << 24;  // floats; the ordinary allocator does as well, or keeps its own

  // n zeros, in memory that was given back before where some of about that size was.
  static Vector<float> zeros(size_t n) {
    Vector<float> found;
    if (n >= SMALL) {
      std::lock_guard<std::mutex> guard(lock());
      size_t best = kept().size();
      for (size_t i = 0; i < kept().size(); i++) {
        const size_t size = kept()[i].capacity();
        if (size >= n && size <= 2 * n && (best == kept().size() || size < kept()[best].capacity())) best = i;
      }
      if (best < kept().size()) {
        found = std::move(kept()[best]);
        kept().erase(kept().begin() + best);
      }
    }
    found.assign(n, 0.f);
    return found;
  }

  static void give_back(Vector<float>&& memory) {
    if (memory.capacity() < SMALL) return;
    std::lock_guard<std::mutex> guard(lock());
    size_t all = memory.capacity();
    for (const auto& other : kept()) all += other.capacity();
    while (!kept().empty() && all > MOST) {  // the oldest goes first
      all -= kept().front().capacity();
      kept().erase(kept().begin());
    }
    if (all <= MOST) kept().push_back(std::move(memory));
  }

  static void release() {
    std::lock_guard<std::mutex> guard(lock());
    kept().clear();
  }

  // A thread that is no more may have held the lock, and left the list half changed.
  static void after_fork() { lock_ = new std::mutex, kept_ = new std::vector<Vector<float>>; }

  static size_t floats() {
    std::lock_guard<std::mutex> guard(lock());
    size_t all = 0;
    for (const auto& memory : kept()) all += memory.capacity();
    return all;
  }

 private:
  // Never destroyed: a thread may outlive the library's end.
  static inline std::mutex* lock_ = new std::mutex;
  static inline auto* kept_ = new std::vector<Vector<float>>;
  static std::mutex& lock() { return *lock_; }
  static std::vector<Vector<float>>& kept() { return *kept_; }
};
