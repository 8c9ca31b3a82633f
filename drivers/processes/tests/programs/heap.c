/* A heap whose every page follows from its number; says of it what it is asked. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 512L

static uint64_t *heap;
static long pages;

static uint64_t word(long page, long at) {
    uint64_t x = (uint64_t)(page * WORDS + at) * 0x9e3779b97f4a7c15;
    return x ^ (x >> 29);
}

static int is_good(long first) {
    for (long i = 0; i < pages; i++) {
        long page = (first + i * 7) % pages;
        for (long at = 0; at < WORDS; at++)
            if (heap[page * WORDS + at] != word(page, at))
                return 0;
    }
    return 1;
}

/* A child looks at all of it while its parent changes a part and changes it back. */
static int is_good_in_a_child(void) {
    int child = fork(), status = 1;
    if (child == 0)
        _exit(is_good(pages / 2) ? 0 : 1);
    for (long page = 0; page < pages; page += 11)
        memset(heap + page * WORDS, 0xff, WORDS * 8);
    for (long page = 0; page < pages; page += 11)
        for (long at = 0; at < WORDS; at++)
            heap[page * WORDS + at] = word(page, at);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0 && is_good(3);
}

/* Half of it goes elsewhere and comes back, a page is given back and written again. */
static int is_good_elsewhere(void) {
    size_t bytes = (size_t)pages * WORDS * 4;
    char *half = (char *)heap + bytes;
    char *place = mmap(0, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mremap(half, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) != (void *)place)
        return 0;
    uint64_t *words = (uint64_t *)place;
    int good = words[5] == word(pages / 2, 5);
    if (mremap(place, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, half) != (void *)half)
        return 0;
    madvise(heap + 8 * WORDS, WORDS * 8, MADV_DONTNEED);
    good = good && heap[8 * WORDS] == 0 && heap[8 * WORDS + 511] == 0;
    for (long at = 0; at < WORDS; at++)
        heap[8 * WORDS + at] = word(8, at);
    return good && is_good(1);
}

int main(int argc, char **argv) {
    pages = (argc > 1 ? atol(argv[1]) : 1) * 256;
    heap = mmap(0, pages * WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long page = 0; page < pages; page++)
        for (long at = 0; at < WORDS; at++)
            heap[page * WORDS + at] = word(page, at);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int good = 1;
        if (line[0] == 'f')
            good = is_good_in_a_child();
        else if (line[0] == 'm')
            good = is_good_elsewhere();
        else if (line[0] == 'c')
            good = is_good(0);
        puts(good ? "good" : "bad");
        fflush(stdout);
    }
    return 0;
}
