// Memory of every kind, and the registers of a thread that makes no calls.
#include "witness.h"
#include <sys/mman.h>
#include <sys/wait.h>

struct check memory, registers;

enum { PAGE = 4096, PAGES = 4096, WORDS = PAGE / 8 };
static uint64_t *heap, seeds[PAGES], choice = 7;
static volatile uint64_t global = 0x1122334455667788;
static __thread uint64_t own;
static char *image, *shared, *closed, *constant, *moved;
static int answers[2];

static void fill(int page, uint64_t seed) {
    seeds[page] = seed;
    for (int i = 0; i < WORDS; i++) heap[page * WORDS + i] = next_random(&seed);
}

static bool intact(int page) {
    uint64_t seed = seeds[page];
    for (int i = 0; i < WORDS; i++)
        if (heap[page * WORDS + i] != next_random(&seed)) return false;
    return true;
}

static char *map(size_t length, int protection, int flags, int fd) {
    char *start = mmap(0, length, protection, flags, fd, 0);
    need(start != MAP_FAILED, "mmap");
    return start;
}

static void memory_start(void) {
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    need(program >= 0 && pipe2(answers, O_CLOEXEC | O_NONBLOCK) == 0, "memory");
    heap = (uint64_t *)map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (int page = 0; page < PAGES; page++) fill(page, page + 1);
    image = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, program);
    close(program);
    image[PAGE] = 'M';
    shared = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    // A child that had it too would bind the process to its node.
    madvise(shared, PAGE, MADV_DONTFORK);
    closed = map(PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    constant = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    moved = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    memcpy(moved + 3 * PAGE, "moved", 6);
    own = 99;
}

// A mapping that comes and goes, one that changes its place, one that is given back.
static void churn(void) {
    char *fresh = map(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (int i = 0; i < 16; i++) {
        if (fresh[i * PAGE]) fail(&memory, "a new page is not empty");
        fresh[i * PAGE] = 1;
    }
    madvise(fresh, 8 * PAGE, MADV_DONTNEED);
    if (fresh[0] || !fresh[8 * PAGE]) fail(&memory, "a page that was given back still holds something");
    munmap(fresh, 16 * PAGE);
    char *place = mremap(moved, 4 * PAGE, ticks % 2 ? 4 * PAGE : 8 * PAGE, MREMAP_MAYMOVE);
    if (place == MAP_FAILED || strcmp(place + 3 * PAGE, "moved")) fail(&memory, "mremap lost a page");
    else moved = mremap(place, ticks % 2 ? 4 * PAGE : 8 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
}

// A child sees the memory as it was at its fork.
static void fork_and_compare(void) {
    int page = next_random(&choice) % PAGES, status;
    pid_t child = fork();
    if (child == 0) _exit(intact(page) && own == 99 && image[PAGE] == 'M' ? 0 : 1);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return fail(&memory, "wait for a child: %s", strerror(errno));
    if (status) fail(&memory, "a child found page %d changed (status %x)", page, status);
}

static void memory_tick(void) {
    for (int i = 0; i < 8; i++) {
        int page = next_random(&choice) % PAGES;
        if (!intact(page)) fail(&memory, "page %d changed", page);
        if (i < 2) fill(page, next_random(&choice));
    }
    if (own != 99 || global != 0x1122334455667788) fail(&memory, "a variable changed");
    if (memcmp(image, "\177ELF", 4) || image[PAGE] != 'M') fail(&memory, "a mapped file changed");
    // Shared memory of this process alone counts up.
    if (*(uint64_t *)shared != ticks) fail(&memory, "shared memory: %lu at tick %u", *(uint64_t *)shared, ticks);
    *(uint64_t *)shared = ticks + 1;
    if (write(answers[1], closed, 1) != -1 || errno != EFAULT) fail(&memory, "a closed page can be read");
    (void)!write(answers[1], "x", 1);
    if (read(answers[0], constant, 1) != -1 || errno != EFAULT) fail(&memory, "a read-only page can be written");
    char byte;
    (void)!read(answers[0], &byte, 1);
    churn();
    if (ticks % 64 == 0) fork_and_compare();
}

static void memory_finish(void) {
    for (int page = 0; page < PAGES; page++)
        if (!intact(page)) fail(&memory, "page %d changed", page);
}

static void memory_inject(void) { heap[PAGES / 2 * WORDS + 5] ^= 1; }

struct check memory = {"memory", memory_start, memory_tick, memory_finish, memory_inject, ""};

static pthread_t spinner;
static volatile bool spoil;

// Fills registers, spins without a call, and compares.
static bool spin(void) {
    uint64_t wide[4] = {1, 2, 3, 4}, back[4], r8, r9, r10, r12, r13, r14, r15, turns = 100000;
    __asm__ volatile(
        "movdqu %[wide], %%xmm3\n movdqu %[wide], %%xmm15\n"
        "mov $8, %%r8\n mov $9, %%r9\n mov $10, %%r10\n mov $12, %%r12\n mov $13, %%r13\n mov $14, %%r14\n mov $15, %%r15\n"
        "std\n"
        "1: dec %[turns]\n jnz 1b\n"
        "lea -128(%%rsp), %%rsp\n pushf\n cld\n andq $0x400, (%%rsp)\n pop %%rcx\n lea 128(%%rsp), %%rsp\n"
        "pand %%xmm15, %%xmm3\n movdqu %%xmm3, %[back]\n"
        "mov %%r8, %[a]\n mov %%r9, %[b]\n mov %%r10, %[c]\n mov %%r12, %[d]\n mov %%r13, %[e]\n mov %%r14, %[f]\n mov %%r15, %[g]\n"
        "mov %%rcx, %[h]\n"
        : [back] "=m"(back), [a] "=m"(r8), [b] "=m"(r9), [c] "=m"(r10), [d] "=m"(r12), [e] "=m"(r13),
          [f] "=m"(r14), [g] "=m"(r15), [h] "=m"(back[3]), [turns] "+r"(turns)
        : [wide] "m"(wide)
        : "rcx", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "xmm3", "xmm15", "cc", "memory");
    return back[0] == 1 && back[1] == 2 && back[3] == 0x400 && r8 == 8 && r9 == 9 && r10 == 10 && r12 == 12
        && r13 == 13 && r14 == 14 && r15 == 15;
}

static void *spins(void *unused) {
    (void)unused;
    unsigned control = 0x7f80, now; // rounding towards zero, all exceptions masked
    unsigned short x87 = 0x0f7f, x87_now;
    __asm__ volatile("ldmxcsr %0\n fldcw %1" : : "m"(control), "m"(x87));
    while (!stopping) {
        if (!spin()) fail(&registers, "a register changed");
        if (spoil) __asm__ volatile("ldmxcsr %0" : : "m"((unsigned){0x1f80}));
        __asm__ volatile("stmxcsr %0\n fnstcw %1" : "=m"(now), "=m"(x87_now));
        if ((now & 0xffc0) != (control & 0xffc0)) fail(&registers, "MXCSR %x became %x", control, now);
        if (x87_now != x87) fail(&registers, "the x87's control word %x became %x", x87, x87_now);
        sleep_ms(1);
    }
    return 0;
}

static void registers_start(void) { spinner = begin(spins, 0); }
static void registers_finish(void) { pthread_join(spinner, 0); }
static void registers_inject(void) { spoil = true; }

struct check registers = {"registers", registers_start, 0, registers_finish, registers_inject, ""};
