// A CUDA driver and cuBLAS without a GPU: "device" memory is the host's, kernels are compiled for the host, every call is counted.
// Stricter than a driver where that finds errors: new memory is NaN, copies and products must stay inside their blocks of memory,
// and all work must be on one stream. What it cannot show: speed, races inside a kernel, and what nvcc makes of one.
//   EMULATED_COUNTS=FILE    write what was called how often when the program ends
//   EMULATED_MEMORY=BYTES   memory of the device, 8 GiB where nothing is said
#include "device.h"
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <sys/mman.h>
#include <ucontext.h>
#include <unordered_map>
#include <vector>

typedef unsigned long long Address;
enum Status { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 101, NOT_FOUND = 500, NOT_EMULATED = 801 };

Dim3 threadIdx, blockIdx, blockDim, gridDim;
std::map<std::string, Kernel*>& kernels() { static std::map<std::string, Kernel*> all; return all; }

namespace {

std::recursive_mutex one_at_a_time;

struct Counts {
    std::map<std::string, long> calls, launches;
    size_t to_device = 0, to_host = 0, most_memory = 0;
    ~Counts() {
        const char* path = getenv("EMULATED_COUNTS");
        FILE* out = path ? fopen(path, "w") : nullptr;
        if (!out) return;
        for (auto& [name, count] : calls) fprintf(out, "call %s %ld\n", name.c_str(), count);
        for (auto& [name, count] : launches) fprintf(out, "launch %s %ld\n", name.c_str(), count);
        fprintf(out, "bytes to_device %zu\nbytes to_host %zu\nbytes most_memory %zu\n", to_device, to_host, most_memory);
        fclose(out);
    }
} counts;

template <class... A> Status refuse(Status status, const char* format, A... arguments) {
    fprintf(stderr, "emulated CUDA: ");
    fprintf(stderr, format, arguments...);
    fprintf(stderr, "\n");
    return status;
}

// Memory: blocks by their address.
std::map<Address, size_t> blocks;
size_t in_use = 0;
const size_t memory = getenv("EMULATED_MEMORY") ? strtoull(getenv("EMULATED_MEMORY"), nullptr, 10) : (size_t)8 << 30;

// Bytes from an address to the end of its block.
size_t room(Address address) {
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin()) return 0;
    auto [start, size] = *--next;
    return address < start + size ? start + size - address : 0;
}

Status allocate(Address* address, size_t size) {
    if (size == 0) return refuse(INVALID, "an allocation of 0 bytes");
    if (in_use + size > memory) return NO_MEMORY;
    void* block = aligned_alloc(512, (size + 511) / 512 * 512);
    if (!block) return NO_MEMORY;
    memset(block, 0xff, size);
    *address = (Address)block;
    blocks[*address] = size;
    in_use += size;
    counts.most_memory = std::max(counts.most_memory, in_use);
    return OK;
}

Status release(Address address) {
    auto block = blocks.find(address);
    if (block == blocks.end()) return refuse(INVALID, "memory is freed that was not allocated");
    in_use -= block->second;
    blocks.erase(block);
    free((void*)address);
    return OK;
}

// Without events nothing orders the work of two streams.
void* only_stream = nullptr;
bool on_one_stream(void* stream) {
    if (!only_stream) only_stream = stream;
    return stream == only_stream;
}

// The threads of a block: each is a fiber, which runs until it waits for others.
const unsigned MOST_THREADS = 1024, WARP = 32;
const size_t STACK = 64 << 10;
enum State { READY, AT_EXCHANGE, AT_BARRIER, DONE };
typedef void* Place[5]; // of __builtin_setjmp, which saves little and asks nobody
struct Fiber {
    State state;
    bool was_started;
    ucontext_t start;
    Place place;
} fibers[MOST_THREADS];
Place scheduler;
unsigned current;
bool in_fibers, has_waited;
uint64_t exchanged[MOST_THREADS];
Kernel* running;
void** arguments;

void place(unsigned thread) {
    current = thread;
    if (thread < blockDim.x) threadIdx = {thread, 0, 0};
    else threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
}

__attribute__((noinline)) void wait_at(State state) {
    if (!in_fibers) {
        refuse(INVALID, "a kernel waits that did not wait in its first block");
        abort();
    }
    Fiber& fiber = fibers[current];
    fiber.state = state;
    has_waited |= state != DONE;
    if (!__builtin_setjmp(fiber.place)) __builtin_longjmp(scheduler, 1);
}

void fiber_body() {
    for (;;) {
        running->run(arguments);
        wait_at(DONE);
    }
}

__attribute__((noinline)) void resume(unsigned thread) {
    Fiber& fiber = fibers[thread];
    place(thread);
    if (__builtin_setjmp(scheduler)) return;
    if (fiber.was_started) __builtin_longjmp(fiber.place, 1);
    static char* stacks = (char*)mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fiber.was_started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks + thread * STACK;
    fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, fiber_body, 0);
    setcontext(&fiber.start);
}

// If some of these fibers wait in this way, and all others are done: lets them go on.
bool let_go(unsigned first, unsigned end, State state) {
    bool any = false;
    for (unsigned t = first; t < end; t++) {
        if (fibers[t].state != state && fibers[t].state != DONE) return false;
        any |= fibers[t].state == state;
    }
    for (unsigned t = first; any && t < end; t++) {
        if (fibers[t].state == state) fibers[t].state = READY;
    }
    return any;
}

void run_in_fibers(unsigned threads) {
    in_fibers = true;
    for (unsigned t = 0; t < threads; t++) fibers[t].state = READY;
    for (bool goes_on = true; goes_on;) {
        for (unsigned first = 0; first < threads; first += WARP) {
            unsigned end = std::min(first + WARP, threads);
            do {
                for (unsigned t = first; t < end; t++) {
                    if (fibers[t].state == READY) resume(t);
                }
            } while (let_go(first, end, AT_EXCHANGE));
        }
        goes_on = let_go(0, threads, AT_BARRIER);
    }
    for (unsigned t = 0; t < threads; t++) {
        if (fibers[t].state != DONE) {
            refuse(INVALID, "threads of a block wait for each other in different places");
            abort();
        }
    }
    in_fibers = false;
}

void run_block(unsigned threads) {
    if (running->waits || running->threads != threads) {
        has_waited = false;
        run_in_fibers(threads);
        running->waits = has_waited;
        running->threads = threads;
        return;
    }
    for (unsigned t = 0; t < threads; t++) {
        place(t);
        running->run(arguments);
    }
}

struct Module { std::set<std::string> entries; };
struct Function { std::string name; Kernel* kernel; };

} // namespace

void __syncthreads() { wait_at(AT_BARRIER); }

uint64_t exchange(uint64_t mine, unsigned lane_mask) {
    unsigned me = current;
    exchanged[me] = mine;
    wait_at(AT_EXCHANGE);
    uint64_t other = exchanged[me ^ lane_mask];
    wait_at(AT_EXCHANGE);
    return other;
}

#define CALL std::lock_guard<std::recursive_mutex> alone(one_at_a_time); counts.calls[__func__]++
#define STREAM(stream) CALL; if (!on_one_stream(stream)) return refuse(INVALID, "%s is on a second stream", __func__)

extern "C" {

Status cuInit(unsigned) { CALL; return OK; }
Status cuDriverGetVersion(int* version) { *version = 13000; return OK; }
Status cuDeviceGetCount(int* count) { *count = 1; return OK; }
Status cuDeviceGet(int* device, int number) { *device = 0; return number == 0 ? OK : NO_DEVICE; }
Status cuDeviceGetName(char* name, int size, int) { snprintf(name, size, "emulated"); return OK; }
Status cuDeviceGetAttribute(int* value, int attribute, int) {
    // Multiprocessors, major and minor capability, memory pools; 1024 fits the limits on threads.
    *value = attribute == 16 ? 132 : attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 115 ? 1 : 1024;
    return OK;
}
Status cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return OK; }
Status cuDevicePrimaryCtxRelease_v2(int) { return OK; }
thread_local void* context_of_thread;
Status cuCtxSetCurrent(void* context) { context_of_thread = context; return OK; }
Status cuCtxGetCurrent(void** context) { *context = context_of_thread; return OK; }
Status cuCtxSynchronize() { CALL; return OK; }
Status cuStreamCreate(void** stream, unsigned) { CALL; *stream = new char; return OK; }
Status cuStreamDestroy_v2(void* stream) {
    CALL;
    if (stream == only_stream) only_stream = nullptr;
    delete (char*)stream;
    return OK;
}
Status cuStreamSynchronize(void*) { CALL; return OK; }
Status cuStreamIsCapturing(void*, int* is_capturing) { *is_capturing = 0; return OK; }
Status cuStreamWaitEvent(void*, void*, unsigned) { CALL; return OK; }
Status cuEventCreate(void** event, unsigned) { CALL; *event = new char; return OK; }
Status cuEventRecord(void*, void*) { CALL; return OK; }
Status cuEventDestroy_v2(void* event) { CALL; delete (char*)event; return OK; }
Status cuGetErrorName(Status status, const char** name) {
    *name = status == INVALID ? "CUDA_ERROR_INVALID_VALUE" : status == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return OK;
}
Status cuGetErrorString(Status status, const char** text) { return cuGetErrorName(status, text); }

Status cuMemGetInfo_v2(size_t* free, size_t* total) { CALL; *total = memory; *free = memory - in_use; return OK; }
Status cuMemAllocAsync(Address* address, size_t size, void* stream) { STREAM(stream); return allocate(address, size); }
Status cuMemFreeAsync(Address address, void* stream) { STREAM(stream); return release(address); }
Status cuMemAlloc_v2(Address* address, size_t size) { CALL; return allocate(address, size); }
Status cuMemFree_v2(Address address) { CALL; return release(address); }
Status cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t size, void* stream) {
    STREAM(stream);
    if (room(to) < size) return refuse(INVALID, "a copy to beyond a block of memory");
    memcpy((void*)to, from, size);
    counts.to_device += size;
    return OK;
}
Status cuMemcpyDtoHAsync_v2(void* to, Address from, size_t size, void* stream) {
    STREAM(stream);
    if (room(from) < size) return refuse(INVALID, "a copy from beyond a block of memory");
    memcpy(to, (void*)from, size);
    counts.to_host += size;
    return OK;
}
Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void* stream) {
    STREAM(stream);
    if (room(from) < size || room(to) < size) return refuse(INVALID, "a copy beyond a block of memory");
    memmove((void*)to, (void*)from, size);
    return OK;
}
Status cuMemsetD8Async(Address to, unsigned char value, size_t size, void* stream) {
    STREAM(stream);
    if (room(to) < size) return refuse(INVALID, "memory is set beyond a block");
    memset((void*)to, value, size);
    return OK;
}

Status cuModuleLoadData(void** module, const void* image) {
    CALL;
    auto* loaded = new Module;
    std::string text = (const char*)image, entry = ".entry ";
    for (size_t at = 0; (at = text.find(entry, at)) != std::string::npos;) {
        at += entry.size();
        loaded->entries.insert(text.substr(at, text.find('(', at) - at));
    }
    *module = loaded;
    return OK;
}
Status cuModuleUnload(void*) { return OK; }
Status cuModuleGetFunction(void** function, void* module, const char* name) {
    CALL;
    if (!((Module*)module)->entries.count(name)) return refuse(NOT_FOUND, "no kernel `%s` is in the module", name);
    auto kernel = kernels().find(name);
    *function = new Function{name, kernel == kernels().end() ? nullptr : kernel->second};
    return OK;
}
Status cuLaunchKernel(
    void* launched, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void* stream, void** given, void**
) {
    STREAM(stream);
    auto* function = (Function*)launched;
    const char* name = function->name.c_str();
    counts.launches[name + std::string(gx * gy * gz == 1 ? " in_one_block" : "")]++;
    size_t threads = (size_t)bx * by * bz;
    if (!gx || !gy || !gz || !threads || threads > MOST_THREADS || gx > 0x7fffffff || gy > 65535 || gz > 65535) {
        return refuse(INVALID, "`%s` is launched as %u %u %u blocks of %u %u %u threads", name, gx, gy, gz, bx, by, bz);
    }
    if (!function->kernel) return refuse(NOT_EMULATED, "kernel `%s` is not compiled for the host", name);
    gridDim = {gx, gy, gz};
    blockDim = {bx, by, bz};
    running = function->kernel;
    arguments = given;
    for (unsigned z = 0; z < gz; z++)
        for (unsigned y = 0; y < gy; y++)
            for (unsigned x = 0; x < gx; x++) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
    return OK;
}

Status curandCreateGenerator(void** generator, int) { *generator = (void*)1; return OK; }
Status curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return OK; }
Status curandSetStream(void*, void*) { return OK; }
Status curandDestroyGenerator(void*) { return OK; }

Status cublasCreate_v2(void** handle) { *handle = new void*; return OK; }
Status cublasDestroy_v2(void*) { return OK; }
Status cublasSetStream_v2(void* handle, void* stream) { *(void**)handle = stream; return OK; }

// Column by column: c [m, n] = alpha op(a) [m, k] op(b) [k, n] + beta c, summed in f32.
Status cublasGemmStridedBatchedEx(
    void* handle, int turn_a, int turn_b, int m, int n, int k, const void* alpha, const void* a, int type, int lda, long long stride_a,
    const void* b, int type_b, int ldb, long long stride_b, const void* beta, void* c, int type_c, int ldc, long long stride_c, int count, int, int
) {
    STREAM(*(void**)handle);
    const int F32 = 0, F16_TYPE = 2, BF16_TYPE = 14;
    if ((type != F32 && type != F16_TYPE && type != BF16_TYPE) || type_b != type || type_c != type) {
        return refuse(NOT_EMULATED, "a product of types %d, %d, %d", type, type_b, type_c);
    }
    if (m <= 0 || n <= 0 || k <= 0 || count <= 0 || lda < (turn_a ? k : m) || ldb < (turn_b ? n : k) || ldc < m) {
        return refuse(INVALID, "a product [%d, %d, %d] x %d with leading dimensions %d, %d, %d", m, k, n, count, lda, ldb, ldc);
    }
    const size_t width = type == F32 ? 4 : 2;
    auto reach = [&](long long stride, int ld, int rows, int columns) { return ((count - 1) * stride + (size_t)(columns - 1) * ld + rows) * width; };
    if (room((Address)a) < reach(stride_a, lda, turn_a ? k : m, turn_a ? m : k) || room((Address)b) < reach(stride_b, ldb, turn_b ? n : k, turn_b ? k : n) ||
        room((Address)c) < reach(stride_c, ldc, m, n)) {
        return refuse(INVALID, "a product reaches beyond a block of memory");
    }
    auto get = [&](const void* numbers, size_t i) {
        return type == F32 ? ((const float*)numbers)[i] : (type == BF16_TYPE ? Bf16::widen : F16::widen)(((const uint16_t*)numbers)[i]);
    };
    auto put = [&](size_t i, float x) {
        if (type == F32) ((float*)c)[i] = x;
        else ((uint16_t*)c)[i] = (type == BF16_TYPE ? Bf16::narrow : F16::narrow)(x);
    };
    const float times = *(const float*)alpha, plus = *(const float*)beta;
    std::vector<float> left((size_t)m * k), right((size_t)k * n), column(m);
    for (int batch = 0; batch < count; batch++) {
        const size_t at_a = batch * stride_a, at_b = batch * stride_b, at_c = batch * stride_c;
        for (int l = 0; l < k; l++)
            for (int i = 0; i < m; i++) left[(size_t)l * m + i] = get(a, at_a + (turn_a ? l + (size_t)i * lda : i + (size_t)l * lda));
        for (int j = 0; j < n; j++)
            for (int l = 0; l < k; l++) right[(size_t)j * k + l] = get(b, at_b + (turn_b ? j + (size_t)l * ldb : l + (size_t)j * ldb));
        for (int j = 0; j < n; j++) {
            std::fill(column.begin(), column.end(), 0.0f);
            for (int l = 0; l < k; l++) {
                const float factor = right[(size_t)j * k + l], *from = &left[(size_t)l * m];
                for (int i = 0; i < m; i++) column[i] += from[i] * factor;
            }
            for (int i = 0; i < m; i++) {
                const size_t at = at_c + i + (size_t)j * ldc;
                put(at, times * column[i] + (plus == 0 ? 0 : plus * get(c, at)));
            }
        }
    }
    return OK;
}

} // extern "C"
