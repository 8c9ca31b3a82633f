// What calls cost, ns each: one line a call, first from a site in this program's text, then from the same bytes in
// anonymous memory, which nobody rewrites. Called with the number of calls a figure.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Number and up to four arguments, as a function of the C calling convention.
asm(".balign 64\nsite: mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\n"
    "syscall\nmov %rax, %rcx\nmov %rcx, %rax\nret\nsite_end:\n");
typedef long (*call_site)(long number, ...);
extern long site(long number, ...);
extern char site_end[];

// CPU time: other load does not count.
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static char buffer[4096];

static double cost(call_site from, int calls, long number, long a, long b, long c, long d) {
    from(number, a, b, c, d);
    for (int i = 0; i < 16; i++) from(number, a, b, c, d);
    double start = now();
    for (int i = 0; i < calls; i++) from(number, a, b, c, d);
    return (now() - start) / calls;
}

int main(int argc, char **argv) {
    int calls = argc > 1 ? atoi(argv[1]) : 10000;
    long zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    struct pollfd ready = {zero, POLLIN, 0};
    void *copy = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(copy, (void *)site, site_end - (char *)site);
    mprotect(copy, 4096, PROT_READ | PROT_EXEC);
    struct { const char *name; long number, a, b, c, d; } all[] = {
        {"getpid", SYS_getpid},
        {"getppid", SYS_getppid},
        {"read_1", SYS_read, zero, (long)buffer, 1},
        {"read_4096", SYS_read, zero, (long)buffer, 4096},
        {"write_1", SYS_write, null, (long)buffer, 1},
        {"rt_sigprocmask", SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, (long)&old, 8},
        {"poll", SYS_poll, (long)&ready, 1, 1000},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        double text = cost(site, calls, all[i].number, all[i].a, all[i].b, all[i].c, all[i].d);
        double own = cost((call_site)copy, calls / 10 + 1, all[i].number, all[i].a, all[i].b, all[i].c, all[i].d);
        printf("%s %.2f %.2f\n", all[i].name, text, own);
    }
    return 0;
}
