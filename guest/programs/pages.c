// Both sides of a move's memory, for the tests of paging.
//
//   pages source MIB SEED            fills a heap, says "ready" and waits to be killed
//   pages target MIB SEED SCENARIO   maps the same heap empty, makes a userfaultfd, says "fd N", waits
//                                    for a line, plays the scenario and says "fine"
//
// Every page's content follows from the seed and its number, so each side can check any page alone.
// One page of eight was never touched, one is full of zeros: both have to read as zeros.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEAP ((char *)0x100000000000)
#define ELSEWHERE ((char *)0x200000000000)
#define PAGE 4096UL
#define WORDS (PAGE / 8)
#define THREADS 4
#define ZEROS (-1L)

static uint64_t seed;
static long pages;

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static void fail(const char *what, long page) {
    dprintf(1, "failed: %s, page %ld\n", what, page);
    _exit(1);
}

static void must(int holds, const char *what) {
    if (!holds) {
        dprintf(1, "failed: %s: %m\n", what);
        _exit(1);
    }
}

// 0: never touched, 1: zeros, else: has content.
static int kind(long page) { return mix(seed ^ page) % 8; }

static uint64_t word(long page, long at) { return mix(seed + page * WORDS + at); }

static char *at(long page) { return HEAP + page * PAGE; }

// `content`: the number of the page that it is a copy of, or ZEROS.
static void check(const char *what, const char *address, long content) {
    const uint64_t *words = (const uint64_t *)address;
    int empty = content == ZEROS || kind(content) < 2;
    for (long i = 0; i < (long)WORDS; i++)
        if (words[i] != (empty ? 0 : word(content, i)))
            fail(what, content);
}

static void fill(void) {
    for (long page = 0; page < pages; page++) {
        uint64_t *words = (uint64_t *)at(page);
        if (kind(page) == 1)
            words[0] = 0;
        for (long i = 0; kind(page) > 1 && i < (long)WORDS; i++)
            words[i] = word(page, i);
    }
}

// All pages, in an order of its own.
static void check_all(const char *what, uint64_t order) {
    long step = (long)(mix(order) % 1000) * 2 + 1;
    while (pages % step == 0 && step > 1)
        step += 2;
    for (long i = 0, page = mix(order + 1) % pages; i < pages; i++, page = (page + step) % pages)
        check(what, at(page), page);
}

static void *check_in_thread(void *order) {
    check_all("a thread's page", (uint64_t)order);
    return 0;
}

static void in_threads(void *(*run)(void *)) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        must(!pthread_create(&threads[i], 0, run, (void *)i), "pthread_create");
    for (long i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
}

static void reap(int count) {
    for (int status; count > 0; count--)
        must(wait(&status) > 0 && status == 0, "a child's end");
}

static void scenario_threads(void) { in_threads(check_in_thread); }

// Children and grandchildren see what was there at their fork, whatever parents do meanwhile.
static void scenario_fork(void) {
    for (int child = 0; child < 6; child++) {
        if (fork() == 0) {
            if (child % 2) {
                int grandchild = fork();
                if (grandchild == 0) {
                    check_all("a grandchild's page", child + 10);
                    _exit(0);
                }
            }
            for (long page = child; page < pages; page += 13)
                memset(at(page), child, PAGE);
            for (long page = 0; page < pages; page++)
                if (page % 13 != child)
                    check("a child's page", at(page), page);
                else if (at(page)[100] != child)
                    fail("a child's own page", page);
            reap(child % 2);
            _exit(0);
        }
        check("between forks", at(child * 31), child * 31);
    }
    check_all("a parent's page", 1);
    reap(6);
}

static void *fork_in_thread(void *number) {
    for (int i = 0; i < 10; i++) {
        int child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            for (long page = (long)number + i; page < pages; page += 61)
                check("a child of a thread", at(page), page);
            _exit(0);
        }
        int status;
        must(waitpid(child, &status, 0) == child && status == 0, "a thread's child");
    }
    return 0;
}

static void scenario_fork_threads(void) {
    pthread_t reader;
    must(!pthread_create(&reader, 0, check_in_thread, (void *)7), "pthread_create");
    in_threads(fork_in_thread);
    pthread_join(reader, 0);
}

// Given back pages are zeros, others are not.
static void *give_back(void *number) {
    for (long page = (long)number * 8; page + 8 <= pages; page += THREADS * 8) {
        must(!madvise(at(page + 2), 3 * PAGE, MADV_DONTNEED), "madvise");
        for (long i = 0; i < 8; i++)
            check("given back", at(page + i), i >= 2 && i < 5 ? ZEROS : page + i);
    }
    return 0;
}

static void scenario_dontneed(void) {
    in_threads(give_back);
    for (long page = 0; page + 8 <= pages; page += 8)
        for (long i = 0; i < 8; i++)
            check("given back, later", at(page + i), i >= 2 && i < 5 ? ZEROS : page + i);
}

// Chunks go elsewhere, in reverse order; then some come back to other places than before.
static void scenario_remap(void) {
    long chunk = 24, chunks = pages / chunk;
    must(mmap(ELSEWHERE, pages * PAGE, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == ELSEWHERE,
         "mmap");
    for (long i = 0; i < chunks; i++) {
        char *to = ELSEWHERE + (chunks - 1 - i) * chunk * PAGE;
        must(mremap(at(i * chunk), chunk * PAGE, chunk * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
             "mremap away");
        check("moved", to + 5 * PAGE, i * chunk + 5);
    }
    // What grows where it was is empty; what is mapped anew is too.
    must(mmap(at(0), chunk * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
              0) == at(0),
         "mmap anew");
    check("mapped anew", at(3), ZEROS);
    must(!munmap(at(0), chunk * PAGE), "munmap");
    int child = fork();
    for (long i = 0; i < chunks; i += 2) {
        char *from = ELSEWHERE + (chunks - 1 - i) * chunk * PAGE;
        char *to = at(i * chunk);
        must(mremap(from, chunk * PAGE, chunk * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
             "mremap back");
    }
    for (long i = 0; i < chunks; i++)
        for (long page = 0; page < chunk; page++) {
            char *base = i % 2 ? ELSEWHERE + (chunks - 1 - i) * chunk * PAGE : at(i * chunk);
            check(child ? "moved twice" : "a child's moved twice", base + page * PAGE, i * chunk + page);
        }
    for (long page = chunks * chunk; page < pages; page++)
        check("not moved", at(page), page);
    if (child == 0)
        _exit(0);
    reap(1);
}

// Unmapped, protected, grown: and the kernel itself touches pages.
static void scenario_kernel(void) {
    int ends[2];
    char copy[PAGE];
    must(!pipe(ends), "pipe");
    for (long page = 0; page + 16 <= pages; page += 16) {
        must(write(ends[1], at(page + 1), PAGE) == PAGE, "write from a page that has not come");
        must(read(ends[0], copy, PAGE) == PAGE, "read");
        check("through a pipe", copy, page + 1);
        memset(copy, 7, PAGE);
        must(write(ends[1], copy, 100) == 100, "write");
        must(read(ends[0], at(page + 2), 100) == 100, "read into a page that has not come");
        must(at(page + 2)[99] == 7, "what was read");
        uint64_t *words = (uint64_t *)at(page + 2);
        if (words[100] != (kind(page + 2) < 2 ? 0 : word(page + 2, 100)))
            fail("beside what was read", page + 2);
        must(!munmap(at(page + 4), 2 * PAGE), "munmap");
        must(mmap(at(page + 4), PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at(page + 4),
             "mmap");
        check("mapped anew", at(page + 4), ZEROS);
        must(!mprotect(at(page + 7), 4 * PAGE, PROT_NONE), "mprotect");
        if (page % 64 == 0)
            must(!mprotect(at(page + 7), 4 * PAGE, PROT_READ), "mprotect");
    }
    for (long page = 0; page + 16 <= pages; page += 16) {
        must(!mprotect(at(page + 7), 4 * PAGE, PROT_READ | PROT_WRITE), "mprotect");
        for (long i = 6; i < 16; i++)
            check("beside changes", at(page + i), page + i);
    }
}

// A thread maps and unmaps while others read, and children are forked between.
static void *move_about(void *ignored) {
    long half = pages / 2;
    for (long page = half; page + 4 <= pages; page += 4) {
        char *to = ELSEWHERE + page * PAGE;
        must(mremap(at(page), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
        if (page % 16 == 0)
            must(!madvise(to, PAGE, MADV_DONTNEED), "madvise");
        if (page % 32 == 4)
            must(!munmap(to + 3 * PAGE, PAGE), "munmap");
        check("moved about", to + PAGE, page + 1);
    }
    return ignored;
}

static void *read_half(void *order) {
    for (long i = 0, page = (long)order; i < pages / 2; i++, page = (page + 77) % (pages / 2))
        check("the other half", at(page), page);
    return 0;
}

static void scenario_storm(void) {
    pthread_t mover, readers[2];
    must(!pthread_create(&mover, 0, move_about, 0), "pthread_create");
    for (long i = 0; i < 2; i++)
        must(!pthread_create(&readers[i], 0, read_half, (void *)i), "pthread_create");
    int children = 20;
    for (int i = 0; i < children; i++) {
        int child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            for (long page = i; page < pages / 2; page += 41)
                check("a child in the storm", at(page), page);
            _exit(0);
        }
    }
    reap(children);
    pthread_join(mover, 0);
    for (long i = 0; i < 2; i++)
        pthread_join(readers[i], 0);
    for (long page = pages / 2; page + 4 <= pages; page += 4)
        for (long i = 0; i < 4; i++)
            if (!(page % 32 == 4 && i == 3))
                check("after the storm", ELSEWHERE + (page + i) * PAGE,
                      page % 16 == 0 && i == 0 ? ZEROS : page + i);
}

static void scenario_exec(void) {
    check("before exec", at(1), 1);
    execl("/bin/echo", "echo", "fine", (char *)0);
    fail("exec", 0);
}

static void scenario_exit(void) { check("before exit", at(1), 1); }

// Touches a page, says so, and touches all others.
static void scenario_abandoned(void) {
    check("the first", at(2), 2);
    must(write(1, "begun\n", 6) == 6, "write");
    for (int child = 0; child < 3; child++)
        if (fork() == 0)
            break;
    check_all("pages that cannot come", 3);
}

static const struct {
    const char *name;
    void (*play)(void);
} scenarios[] = {
    {"threads", scenario_threads}, {"fork", scenario_fork},     {"fork_threads", scenario_fork_threads},
    {"dontneed", scenario_dontneed}, {"remap", scenario_remap}, {"kernel", scenario_kernel},
    {"storm", scenario_storm},     {"exec", scenario_exec},     {"exit", scenario_exit},
    {"abandoned", scenario_abandoned},
};

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    pages = atol(argv[2]) << 8;
    seed = mix(atol(argv[3]));
    must(mmap(HEAP, pages * PAGE, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == HEAP,
         "mmap");
    if (!strcmp(argv[1], "source")) {
        fill();
        must(write(1, "ready\n", 6) == 6, "write");
        for (;;)
            pause();
    }
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    must(device >= 0, "open /dev/userfaultfd");
    int number = ioctl(device, 0xaa00, O_CLOEXEC | O_NONBLOCK);
    must(number >= 0, "USERFAULTFD_IOC_NEW");
    dprintf(1, "fd %d\n", number);
    char line[8];
    must(read(0, line, sizeof line) > 0, "read");
    close(number);
    close(device);
    for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (argc > 4 && !strcmp(argv[4], scenarios[i].name)) {
            scenarios[i].play();
            must(write(1, "fine\n", 5) == 5, "write");
            return 0;
        }
    return 2;
}
