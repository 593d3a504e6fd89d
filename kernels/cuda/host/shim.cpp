// The fibers behind shim.h. x86-64 and g++.
#include "shim.h"

#include <sys/mman.h>

#include <vector>

#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __asan_unpoison_memory_region(void const volatile*, size_t);
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#endif
#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define UNSEEN __attribute__((no_sanitize("thread")))
#define ACQUIRE(what) __tsan_acquire(what)
#define RELEASE(what) __tsan_release(what)
#else
#define UNSEEN
#define ACQUIRE(what) (void)(what)
#define RELEASE(what) (void)(what)
#endif

// Saves what a call keeps, and goes on where another has saved it.
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.globl shim_switch
.type shim_switch,@function
shim_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size shim_switch,.-shim_switch
)");

namespace shim {
Thread* current;
uint3 block, block_dim, grid_dim;

namespace {
enum State { RUNS, AT_BARRIER, AT_WARP, DONE };

struct Fiber {
    Thread thread;  // first: `current` points to it
    void* stack_pointer;
    char* stack;
    State state;
    unsigned mask;
    const char* where;
    uint64_t value;
    void* known;  // to ThreadSanitizer
};

const size_t STACK = 256 << 10;
std::vector<Fiber> fibers;
void* host_pointer;
const std::function<void()>* body;
const char* kernel;
unsigned char* shared_memory;
// What orders fibers, for ThreadSanitizer.
char barriers[2], warps[32], start, ended, blocks;
unsigned generation;
#ifdef __SANITIZE_THREAD__
void* host_fiber;
#endif
#ifdef __SANITIZE_ADDRESS__
const void* host_stack;
size_t host_stack_size;
#endif

[[noreturn]] void die(const char* what) {
    fprintf(stderr, "%s, block (%u, %u, %u): %s\n", kernel, block.x, block.y, block.z, what);
    int shown = 0;
    for (Fiber& f : fibers)
        if ((f.state == AT_BARRIER || f.state == AT_WARP) && shown++ < 4)
            fprintf(stderr, "  thread %u waits in %s\n", f.thread.number, f.where);
    abort();
}

UNSEEN void to_host(Fiber* f, bool ends) {
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(ends ? nullptr : &fake, host_stack, host_stack_size);
#endif
    (void)ends;
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(host_fiber, 1);
#endif
    shim_switch(&f->stack_pointer, host_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, &host_stack, &host_stack_size);
#endif
}

UNSEEN void run(Fiber* f) {
    current = &f->thread;
#ifdef __SANITIZE_ADDRESS__
    void* fake;
    __sanitizer_start_switch_fiber(&fake, f->stack, STACK);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(f->known, 1);
#endif
    shim_switch(&host_pointer, f->stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

Fiber* self() { return reinterpret_cast<Fiber*>(current); }

extern "C" UNSEEN void shim_entry() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_size);
#endif
    ACQUIRE(&start);
    ACQUIRE(&blocks);  // shared memory is used by one block after the other
    (*body)();
    RELEASE(&ended);
    Fiber* f = self();
    f->state = DONE;
    to_host(f, true);
    abort();
}

/// Lets the warps go on whose named lanes have all come.
bool release_warps(size_t threads) {
    bool any = false;
    for (size_t first = 0; first < threads; first += 32) {
        for (size_t lane = 0; lane < 32 && first + lane < threads; ++lane) {
            Fiber& f = fibers[first + lane];
            if (f.state != AT_WARP) continue;
            bool all = true;
            for (size_t other = 0; other < 32; ++other) {
                if (!(f.mask >> other & 1)) continue;
                if (first + other >= threads || fibers[first + other].state == DONE) die("a lane is named that has left");
                Fiber& o = fibers[first + other];
                if (o.state != AT_WARP || o.mask != f.mask) all = false;
                else if (strcmp(o.where, f.where)) die("lanes of one mask wait in different operations");
            }
            if (!all) continue;
            for (size_t other = 0; other < 32; ++other)
                if (f.mask >> other & 1) fibers[first + other].state = RUNS;
            any = true;
        }
    }
    return any;
}
}  // namespace

UNSEEN void barrier(const char* where) {
    Fiber* f = self();
    unsigned mine = generation & 1;
    RELEASE(&barriers[mine]);
    f->state = AT_BARRIER;
    f->where = where;
    to_host(f, false);
    ACQUIRE(&barriers[mine]);
}

UNSEEN void warp_barrier(unsigned mask, bool orders_memory, const char* where) {
    Fiber* f = self();
    if (!(mask >> (f->thread.number & 31) & 1)) die("a lane is not in its own mask");
    if (orders_memory) RELEASE(&warps[f->thread.number / 32]);
    f->state = AT_WARP;
    f->mask = mask;
    f->where = where;
    to_host(f, false);
    if (orders_memory) ACQUIRE(&warps[f->thread.number / 32]);
}

UNSEEN uint64_t exchange(unsigned mask, uint64_t value, int from, const char* where) {
    Fiber* f = self();
    f->value = value;
    warp_barrier(mask, false, where);
    if (from < 0 || from > 31 || !(mask >> from & 1)) die("a shuffle reads a lane that is not named");
    uint64_t result = fibers[(f->thread.number & ~31u) + (unsigned)from].value;
    warp_barrier(mask, false, where);  // nobody writes before all have read
    return result;
}

void* launch_shared() { return shared_memory; }

UNSEEN void launch(uint3 grid, unsigned threads, size_t shared, const char* name, const std::function<void()>& work) {
    kernel = name;
    body = &work;
    grid_dim = grid;
    block_dim = {threads, 1, 1};
    fibers.resize(max<size_t>(fibers.size(), threads));
    for (Fiber& f : fibers)
        if (!f.stack) f.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
#ifdef __SANITIZE_THREAD__
    host_fiber = __tsan_get_current_fiber();
#endif
    for (unsigned index = 0; index < grid.x * grid.y * grid.z; ++index) {
        block = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
        // All bits set: floats that nobody wrote are no numbers.
        shared_memory = shared ? (unsigned char*)malloc(shared) : nullptr;
        if (shared) memset(shared_memory, 0xff, shared);
        for (unsigned i = 0; i < threads; ++i) {
            Fiber& f = fibers[i];
            f.thread = {{i, 0, 0}, i};
#ifdef __SANITIZE_ADDRESS__
            __asan_unpoison_memory_region(f.stack, STACK);  // what a fiber that ended left
#endif
            f.state = RUNS;
            void** top = (void**)(f.stack + STACK - 56);
            *top = nullptr;
            *--top = (void*)shim_entry;
            top -= 6;
            memset(top, 0, 48);
            f.stack_pointer = top;
#ifdef __SANITIZE_THREAD__
            if (!f.known) f.known = __tsan_create_fiber(0);
#endif
        }
        RELEASE(&start);
        generation = 0;
        for (unsigned alive = threads; alive;) {
            bool went_on = false;
            unsigned waiting = 0;
            const char* where = nullptr;
            for (unsigned i = 0; i < threads; ++i) {
                if (fibers[i].state != RUNS) continue;
                run(&fibers[i]);
                went_on = true;
                if (fibers[i].state == DONE) --alive;
            }
            went_on |= release_warps(threads);
            for (unsigned i = 0; i < threads; ++i) {
                if (fibers[i].state != AT_BARRIER) continue;
                ++waiting;
                if (where && strcmp(where, fibers[i].where)) die("threads meet at different barriers");
                where = fibers[i].where;
            }
            if (alive && waiting == alive) {
                if (waiting != threads) die("a barrier after some threads have left");
                ++generation;
                for (unsigned i = 0; i < threads; ++i) fibers[i].state = RUNS;
                went_on = true;
            }
            if (!went_on && alive) die("everybody waits");
        }
        ACQUIRE(&ended);
        RELEASE(&blocks);
        free(shared_memory);
        shared_memory = nullptr;
    }
    ACQUIRE(&ended);
}
}  // namespace shim
