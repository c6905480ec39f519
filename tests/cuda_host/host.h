// Runs CUDA kernels on a processor, to test them where there is no GPU.
//
// Threads of a block are fibers of one thread (default), or threads of the system (-D HOST_THREADS, for ThreadSanitizer).
// Fibers take turns in a fixed order, forward or backward, and change only at barriers: where a barrier is missing, one
// of the two orders reads what has not been written yet. Blocks follow one another.
//
// What it catches: an index out of bounds of any array (also of shared ones), shared memory that is read before it is
// written (poisoned with NaN and -1), barriers that part of a block does not reach, warp operations of part of a warp,
// more threads than a kernel was compiled for, arguments of another type or number than the kernel's.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>
#ifdef HOST_THREADS
#include <barrier>
#include <thread>
#else
#include <sys/mman.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)

namespace host {

struct Fault : std::runtime_error { using std::runtime_error::runtime_error; };

struct Index { unsigned x = 0, y = 0, z = 0; };

struct Launch {
    int64_t grid[3], block[3];
    int64_t backward;
};

struct Argument {
    void* data;
    int64_t length;  // -1: a scalar
    int64_t size;    // bytes of an element
    int64_t kind;    // 'i' signed, 'u' unsigned, 'f' floating point, 'b' bool
};

struct Warp {
    uint64_t slots[2][32];
#ifdef HOST_THREADS
    std::barrier<> gate{32};
#endif
};

struct Block {
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<char[]>> shared;
    std::mutex lock;
#ifdef HOST_THREADS
    std::barrier<> gate;
    Block(int n_warps, int n_threads) : warps(n_warps), gate(n_threads) {}
#else
    Block(int n_warps, int) : warps(n_warps) {}
#endif
};

enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Thread {
    Index thread, block;
    int number = 0;
    unsigned parity = 0;
    size_t n_shared = 0;
    State state = READY;
    Block* home = nullptr;
    void* stack = nullptr;
};

struct Shape { Index block_dim, grid_dim; };

inline thread_local Thread* current = nullptr;
inline thread_local Shape shape;
inline thread_local int64_t most_threads = 0;

inline std::string where() {
    const Thread& t = *current;
    char text[160];
    snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.thread.x, t.thread.y, t.thread.z,
             t.block.x, t.block.y, t.block.z);
    return text;
}

// --- threads and barriers -------------------------------------------------------------------------------------------

#ifdef HOST_THREADS

inline void wait_block() { current->home->gate.arrive_and_wait(); }
inline void wait_warp() { current->home->warps[current->number / 32].gate.arrive_and_wait(); }

#else

extern "C" void host_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.weak host_switch
.type host_switch,@function
host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size host_switch,.-host_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak host_switch
.type host_switch,%function
host_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
.size host_switch,.-host_switch
)");
#else
#error "fibers are written for x86-64 and AArch64"
#endif

inline thread_local void* scheduler = nullptr;

inline void pause(State state) {
    current->state = state;
    host_switch(&current->stack, scheduler);
}
inline void wait_block() { pause(AT_BLOCK); }
inline void wait_warp() { pause(AT_WARP); }

#endif

// --- arrays ---------------------------------------------------------------------------------------------------------

template <class T> struct Checked {
    T* data = nullptr;
    int64_t first = 0, length = 0;
    const char* name = "an argument";

    T& operator[](int64_t i) const {
        const int64_t at = first + i;
        if (at < 0 || at >= length) {
            throw Fault(where() + ": index " + std::to_string(at) + " of " + name + ", which has " +
                        std::to_string(length) + " elements");
        }
        return data[at];
    }
    T& operator*() const { return (*this)[0]; }
    Checked operator+(int64_t n) const { return {data, first + n, length, name}; }
    operator Checked<const T>() const { return {data, first, length, name}; }
};

template <class T> Checked<T> shared(int64_t count, const char* name) {
    Thread& t = *current;
    std::lock_guard<std::mutex> guard(t.home->lock);
    auto& all = t.home->shared;
    if (t.n_shared == all.size()) {
        all.emplace_back(new char[count * sizeof(T)]);
        memset(all.back().get(), 0xff, count * sizeof(T));
    }
    return {reinterpret_cast<T*>(all[t.n_shared++].get()), 0, count, name};
}

template <class T> char kind_of() {
    if (std::is_same<T, bool>::value) return 'b';
    if (std::is_floating_point<T>::value) return 'f';
    return std::is_signed<T>::value ? 'i' : 'u';
}

template <class P> struct Unpack {  // a scalar
    static P from(const Argument& a, int number) {
        check(a, number, a.length == -1);
        P value;
        memcpy(&value, a.data, sizeof value);
        return value;
    }
    static void check(const Argument& a, int number, bool shape_fits) {
        if (!shape_fits || a.size != int64_t(sizeof(P)) || a.kind != kind_of<P>())
            throw Fault("argument " + std::to_string(number) + ": the kernel takes " + (shape_fits ? "" : "no array, ") +
                        kind_of<P>() + std::to_string(sizeof(P)) + ", not " + char(a.kind) + std::to_string(a.size));
    }
};
template <class T> struct Unpack<Checked<T>> {
    static Checked<T> from(const Argument& a, int number) {
        using Plain = typename std::remove_const<T>::type;
        if (a.length < 0) throw Fault("argument " + std::to_string(number) + ": the kernel takes an array, not a scalar");
        Unpack<Plain>::check(a, number, true);
        static thread_local char names[64][16];  // of the latest launch
        snprintf(names[number & 63], sizeof names[0], "argument %d", number);
        return {static_cast<T*>(a.data), 0, a.length, names[number & 63]};
    }
};

// --- blocks ---------------------------------------------------------------------------------------------------------

template <class Call> struct Runner {
    const Call& call;
    std::string fault;

#ifdef HOST_THREADS
    void block(const Index& at, int n, bool) {
        Block home((n + 31) / 32, n);
        std::vector<Thread> all(n);
        std::vector<std::thread> running;
        for (int i = 0; i < n; i++) place(all[i], at, home, i);
        const Shape outer = shape;
        for (int i = 0; i < n; i++) {
            running.emplace_back([&, i] {
                current = &all[i];
                shape = outer;
                try {
                    call();
                } catch (const Fault& f) {
                    fprintf(stderr, "fault: %s\n", f.what());
                    _Exit(3);
                }
            });
        }
        for (auto& thread : running) thread.join();
    }
#else
    static constexpr size_t STACK = 256 * 1024;

    struct Stacks {
        std::vector<char*> all;
        char* at(size_t i) {
            while (all.size() <= i) {
                void* memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (memory == MAP_FAILED) throw Fault("no memory for another thread");
                all.push_back(static_cast<char*>(memory));
            }
            return all[i];
        }
        ~Stacks() { for (char* memory : all) munmap(memory, STACK); }
    };

    static inline thread_local Runner* running = nullptr;

    static void enter() {
        try {
            running->call();
        } catch (const Fault& f) {
            if (running->fault.empty()) running->fault = f.what();
        }
        pause(DONE);
        abort();
    }

    void resume(Thread& t) {
        current = &t;
        host_switch(&scheduler, t.stack);
    }

    void block(const Index& at, int n, bool backward) {
        static thread_local Stacks stacks;
        Block home((n + 31) / 32, n);
        std::vector<Thread> all(n);
        running = this;
        for (int i = 0; i < n; i++) {
            place(all[i], at, home, i);
            char* top = stacks.at(i) + STACK;
#if defined(__x86_64__)
            void** stack = reinterpret_cast<void**>(top) - 1;  // as if `enter` had been called
            *--stack = reinterpret_cast<void*>(&enter);
            for (int k = 0; k < 6; k++) *--stack = nullptr;
#else
            void** stack = reinterpret_cast<void**>(top) - 20;
            memset(stack, 0, 160);
            stack[1] = reinterpret_cast<void*>(&enter);
#endif
            all[i].stack = stack;
        }
        const int n_warps = (n + 31) / 32;
        for (int done = 0; done < n;) {
            bool moved = false;
            for (int k = 0; k < n_warps; k++) {
                const int warp = backward ? n_warps - 1 - k : k, first = 32 * warp, last = std::min(first + 32, n);
                for (bool again = true; again;) {
                    again = false;
                    int waiting = 0;
                    for (int m = first; m < last; m++) {
                        Thread& t = all[backward ? first + last - 1 - m : m];
                        if (t.state == READY) {
                            resume(t);
                            moved = true;
                            done += t.state == DONE;
                            if (!fault.empty()) return;
                        }
                        waiting += t.state == AT_WARP;
                    }
                    if (waiting == 32) {
                        for (int m = first; m < last; m++) all[m].state = READY;
                        again = moved = true;
                    }
                }
            }
            int waiting = 0;
            for (const Thread& t : all) waiting += t.state == AT_BLOCK;
            if (waiting == n) {
                for (Thread& t : all) t.state = READY;
            } else if (!moved && done < n) {
                fault = "a barrier is not reached by all: of " + std::to_string(n) + " threads of block (" +
                        std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ") " +
                        std::to_string(waiting) + " wait for the block, " + std::to_string(done) + " have ended";
                return;
            }
        }
    }
#endif

    void place(Thread& t, const Index& at, Block& home, int i) {
        const Index& d = shape.block_dim;
        t.thread = {i % d.x, i / d.x % d.y, i / d.x / d.y};
        t.block = at;
        t.number = i;
        t.home = &home;
    }
};

template <class Call> std::string run(const Launch& launch, const Call& call) {
    const int64_t *g = launch.grid, *b = launch.block;
    const int64_t n = b[0] * b[1] * b[2], blocks = g[0] * g[1] * g[2];
    for (int i = 0; i < 3; i++) {
        if (g[i] < 1 || b[i] < 1 || g[i] > (i ? 65535 : 2147483647)) return "a grid or block that no device takes";
    }
    if (n > most_threads) {
        return std::to_string(n) + " threads per block, but the kernel was compiled for " + std::to_string(most_threads);
    }
    shape = {{unsigned(b[0]), unsigned(b[1]), unsigned(b[2])}, {unsigned(g[0]), unsigned(g[1]), unsigned(g[2])}};
    Runner<Call> runner{call, {}};
    for (int64_t k = 0; k < blocks && runner.fault.empty(); k++) {
        const int64_t i = launch.backward ? blocks - 1 - k : k;
        runner.block({unsigned(i % g[0]), unsigned(i / g[0] % g[1]), unsigned(i / g[0] / g[1])}, int(n), launch.backward);
    }
    return runner.fault;
}

template <class... P, size_t... I>
std::string apply(void (*kernel)(P...), const Launch& launch, const Argument* a, std::index_sequence<I...>) {
    const auto unpacked = std::make_tuple(Unpack<P>::from(a[I], int(I))...);
    return run(launch, [&] { kernel(std::get<I>(unpacked)...); });
}

template <class... P>
std::string start(void (*kernel)(P...), const Launch& launch, const Argument* arguments, int64_t n) {
    if (n != int64_t(sizeof...(P))) {
        return std::to_string(n) + " arguments, but the kernel takes " + std::to_string(sizeof...(P));
    }
    try {
        return apply(kernel, launch, arguments, std::index_sequence_for<P...>{});
    } catch (const Fault& f) {
        return f.what();
    }
}

template <class T> T exchange(T value, int source) {
    static_assert(sizeof(T) <= 8, "a shuffled value has 8 bytes at the most");
    Thread& t = *current;
    Warp& warp = t.home->warps[t.number / 32];
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    uint64_t(&slots)[32] = warp.slots[t.parity];
    t.parity ^= 1;  // the other half is free: all lanes have passed the barrier of its last use
    slots[t.number % 32] = bits;
    wait_warp();
    T result;
    memcpy(&result, &slots[source & 31], sizeof result);
    return result;
}

inline void whole(unsigned mask) {
    if (mask != 0xffffffffu) throw Fault(where() + ": a warp operation of part of a warp");
}

// What the launcher of the tests calls: an empty string where all went well.
template <class K>
int serve(K* kernel, int64_t bound, const Launch* launch, const Argument* arguments, int64_t n, char* message, int64_t room) {
    most_threads = bound;
    const std::string fault = start(kernel, *launch, arguments, n);
    snprintf(message, room, "%s", fault.c_str());
    return fault.empty() ? 0 : 1;
}

}  // namespace host

// --- CUDA's words ---------------------------------------------------------------------------------------------------

#define threadIdx (host::current->thread)
#define blockIdx (host::current->block)
#define blockDim (host::shape.block_dim)
#define gridDim (host::shape.grid_dim)

inline void __syncthreads() { host::wait_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { host::whole(mask); host::wait_warp(); }
template <class T> T __shfl_sync(unsigned mask, T value, int source) {
    host::whole(mask);
    return host::exchange(value, source);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int distance) {
    host::whole(mask);
    return host::exchange(value, (host::current->number % 32) ^ distance);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    host::whole(mask);
    unsigned result = 0;
    const unsigned mine = predicate ? 1u << (host::current->number % 32) : 0u;
    result = mine;
    for (int distance = 16; distance > 0; distance /= 2) result |= __shfl_xor_sync(mask, result, distance);
    return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <class T, class V> T atomicAdd(T* at, V value) {
#ifdef HOST_THREADS
    static_assert(std::is_integral<T>::value, "sums of floating-point numbers depend on their order");
    return __atomic_fetch_add(at, T(value), __ATOMIC_RELAXED);
#else
    const T before = *at;
    *at = T(before + T(value));
    return before;
#endif
}
// Write a value where it wins against the one that is there; the latter.
template <class T, class Wins> T atomic_replace(T* at, T value, Wins wins) {
#ifdef HOST_THREADS
    T before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (wins(value, before) &&
           !__atomic_compare_exchange_n(at, &before, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return before;
#else
    const T before = *at;
    if (wins(value, before)) *at = value;
    return before;
#endif
}
template <class T, class V> T atomicMax(T* at, V value) {
    return atomic_replace(at, T(value), [](T a, T b) { return b < a; });
}
template <class T, class V> T atomicMin(T* at, V value) {
    return atomic_replace(at, T(value), [](T a, T b) { return a < b; });
}

template <class A, class B> typename std::common_type<A, B>::type min(A a, B b) { return b < a ? b : a; }
template <class A, class B> typename std::common_type<A, B>::type max(A a, B b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

// --- the kernels' words ---------------------------------------------------------------------------------------------

template <class T> using In = host::Checked<const T>;
template <class T> using Out = host::Checked<T>;
template <class T> using Shared = host::Checked<T>;
#define KERNEL(most_threads) static void
#define SHARED(type, name, count) const host::Checked<type> name = host::shared<type>(count, #name)
