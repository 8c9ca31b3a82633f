// Many call sites of every form, called by several threads at once in a storm of signals, in one child after
// another: no register, flag, mask, byte or signal may be lost, whatever is done to the sites meanwhile.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { SITES = 48, THREADS = 3, ARITHMETIC = 0x8d5 };
static int calls_each = 14;

struct registers {
    uint64_t rax, rdi, rsi, rdx, r10, r8, r9, rbx, rbp, r12, r13, r14, r15, flags;
    uint64_t xmm[32];
};

// Loads all registers, calls, and stores them again. KIND: what stands around the call.
#define HEAD(NAME) \
    ".balign 64\n.globl " NAME "\n" NAME ":\n" \
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rdi\n" \
    "mov %rdi, %r11\n" \
    "movups 112(%r11), %xmm0\nmovups 128(%r11), %xmm1\nmovups 240(%r11), %xmm8\nmovups 352(%r11), %xmm15\n" \
    "pushq 104(%r11)\npopfq\n" \
    "mov 0(%r11), %rax\nmov 8(%r11), %rdi\nmov 16(%r11), %rsi\nmov 24(%r11), %rdx\nmov 32(%r11), %r10\n" \
    "mov 40(%r11), %r8\nmov 48(%r11), %r9\nmov 56(%r11), %rbx\nmov 64(%r11), %rbp\nmov 72(%r11), %r12\n" \
    "mov 80(%r11), %r13\nmov 88(%r11), %r14\nmov 96(%r11), %r15\n"
#define TAIL \
    "mov %rax, 0(%r11)\nmov %rdi, 8(%r11)\nmov %rsi, 16(%r11)\nmov %rdx, 24(%r11)\nmov %r10, 32(%r11)\n" \
    "mov %r8, 40(%r11)\nmov %r9, 48(%r11)\nmov %rbx, 56(%r11)\nmov %rbp, 64(%r11)\nmov %r12, 72(%r11)\n" \
    "mov %r13, 80(%r11)\nmov %r14, 88(%r11)\nmov %r15, 96(%r11)\npushfq\npopq 104(%r11)\n" \
    "movups %xmm0, 112(%r11)\nmovups %xmm1, 128(%r11)\nmovups %xmm8, 240(%r11)\nmovups %xmm15, 352(%r11)\n" \
    "pop %rdi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
// An instruction that may be moved stands behind the call.
#define FOLLOWED(N) HEAD("followed" #N) "syscall\nmov 0(%rsp), %r11\nnop\n" TAIL
#define DECLARE(N) extern void followed##N(struct registers *);
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) \
    X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31) X(32) \
    X(33) X(34) X(35) X(36) X(37) X(38) X(39) X(40) X(41) X(42) X(43) X(44) X(45) X(46) X(47)
#define EMIT(N) asm(FOLLOWED(N));
#define NAME(N) followed##N,
EACH(EMIT)
EACH(DECLARE)
static void (*const sites[SITES])(struct registers *) = {EACH(NAME)};

// The loaded form: the number is in the code, and a second way in comes with its own number.
asm(".balign 64\nloaded_pid:\nmov $39, %eax\nsyscall\nret\n"
    ".balign 64\nloaded_read:\nmov $0, %eax\nsyscall\nret\n"
    ".balign 64\nlate_read:\nmov %rcx, %rax\njmp 1f\nearly_read:\nmov $0, %eax\n1: syscall\nret\n");
extern long loaded_pid(void);
extern long loaded_read(long, void *, long);
extern long early_read(long, void *, long);
extern long late_read(long, void *, long, long number);

static atomic_long alarms, pokes, faults;
static int zero, sink;
static _Atomic int over;
static __thread sigjmp_buf back;

static void fail(const char *what, long got, long want) {
    printf("FAILED: %s: %lx, not %lx (errno %d)\n", what, got, want, errno);
    fflush(stdout);
    _exit(1);
}
static void same(const char *what, long got, long want) { if (got != want) fail(what, got, want); }

static void on_alarm(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    (void)info;
    if (u->uc_mcontext.gregs[REG_RIP] < 0x10000) fail("address of a signal", u->uc_mcontext.gregs[REG_RIP], 0);
    // A handler may use everything.
    char c;
    if (read(zero, &c, 1) != 1) fail("read in a handler", 0, 1);
    asm volatile("pcmpeqd %%xmm0, %%xmm0\npcmpeqd %%xmm8, %%xmm8\npcmpeqd %%xmm15, %%xmm15" ::: "xmm0", "xmm8", "xmm15");
    atomic_fetch_add(signal == SIGALRM ? &alarms : &pokes, 1);
}
static void on_fault(int signal) { (void)signal; atomic_fetch_add(&faults, 1); siglongjmp(back, 1); }

// As the kernel has them: handler, flags, restorer, mask.
static const unsigned long actions[2][4] = {{(unsigned long)SIG_IGN}, {(unsigned long)SIG_DFL}};

static uint64_t next(uint64_t *seed) { return *seed = *seed * 6364136223846793005u + 1442695040888963407u; }

// One call from one site: everything but the result is as before.
static void probe(int site, uint64_t *seed) {
    struct registers in, out;
    char bytes[8] = "xxxxxxx";
    sigset_t some, old;
    for (unsigned i = 0; i < sizeof in / 8; i++) ((uint64_t *)&in)[i] = next(seed);
    in.flags = 0x202 | (next(seed) >> 20 & ARITHMETIC);
    long want = 0;
    switch (next(seed) >> 40 & 7) {
    case 0: in.rax = SYS_getpid; want = getpid(); break;
    case 1: in.rax = SYS_read; in.rdi = zero; in.rsi = (long)bytes; in.rdx = 3; want = 3; break;
    case 2:
        sigemptyset(&some); sigaddset(&some, SIGUSR2);
        in.rax = SYS_rt_sigprocmask; in.rdi = next(seed) >> 33 & 1; in.rsi = (long)&some; in.rdx = (long)&old; in.r10 = 8;
        break;
    case 3: case 4:
        // What a handler is chosen by changes while signals come.
        in.rax = SYS_rt_sigaction; in.rdi = SIGUSR2; in.rsi = (long)&actions[next(seed) >> 33 & 1]; in.rdx = 0; in.r10 = 8;
        break;
    default: in.rax = SYS_write; in.rdi = sink; in.rsi = (long)bytes; in.rdx = 5; want = 5; break;
    }
    out = in;
    sites[site](&out);
    same("result", out.rax, want);
    same("flags", out.flags & ARITHMETIC, in.flags & ARITHMETIC);
    if (memcmp(&out.rdi, &in.rdi, 12 * 8)) fail("registers", site, 0);
    for (int i = 0; i < 32; i++)
        if ((i < 4 || i / 2 == 8 || i / 2 == 15) && out.xmm[i] != in.xmm[i]) fail("vectors", i, 0);
    if (in.rax == SYS_read && memcmp(bytes, "\0\0\0xxxx", 7)) fail("bytes read", bytes[0], 0);
}

static void fault_and_return(void) {
    long before = faults;
    if (!sigsetjmp(back, 1)) {
        *(volatile char *)8 = 1;
        fail("no fault", 0, 0);
    }
    same("faults", faults > before, 1);
    // The kernel's own fault on the guest's address is an errno.
    same("EFAULT", read(zero, (void *)8, 1), -1);
    same("errno", errno, EFAULT);
}

static void calls(uint64_t seed, int with_faults) {
    for (int call = 0; call < calls_each; call++)
        for (int site = 0; site < SITES; site++) {
            probe((site * 7 + (int)(seed & 7)) % SITES, &seed);
            char c[4] = "yyy";
            if (site % 8 == 0) {
                same("loaded pid", loaded_pid(), getpid());
                same("loaded read", loaded_read(zero, c, 2), 2);
                same("early read", early_read(zero, c, 1), 1);
                same("late read", late_read(zero, c, 2, SYS_read), 2);
                same("late pid", late_read(zero, c, 2, SYS_getpid), getpid());
                same("byte", c[2], 'y');
            }
            if (with_faults && site == 11) fault_and_return();
        }
}

static void *thread(void *seed) {
    calls((uint64_t)seed, 0);
    return 0;
}

static void *poke(void *main) {
    while (!over) {
        pthread_kill((pthread_t)main, SIGUSR1);
        usleep(150);
    }
    return 0;
}

static void child(int round) {
    pthread_t threads[THREADS], poker;
    struct itimerval timer = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    if (round % 2) sigaltstack(&alternate, 0);
    pthread_create(&poker, 0, poke, (void *)pthread_self());
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, thread, (void *)(round * 31 + i));
    setitimer(ITIMER_REAL, &timer, 0);
    calls(round * 77 + 5, 1);
    if (round % 4 == 0) {
        int status, pid = fork();
        if (!pid) { calls(round + 3, 1); _exit(7); }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        same("status of a fork", WEXITSTATUS(status), 7);
    }
    for (int i = 0; i < 4; i++) {
        int status, pid = vfork();
        if (!pid) { same("vfork's pid", loaded_pid() == getpid(), 1); _exit(3 + i); }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        same("status of a vfork", WEXITSTATUS(status), 3 + i);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
    setitimer(ITIMER_REAL, &off, 0);
    over = 1;
    pthread_join(poker, 0);
    sigset_t mask;
    sigprocmask(SIG_SETMASK, 0, &mask);
    if (sigismember(&mask, SIGALRM) || sigismember(&mask, SIGUSR1)) fail("mask", 0, 0);
}

// While the signals are blocked that faults raise, a wrong address is an errno still.
int main(int, char **);
static void wrong_addresses(void) {
    sigset_t all, old, none;
    sigfillset(&all);
    sigemptyset(&none);
    for (int round = 0; round < 40; round++) {
        if (round % 8 < 6) sigprocmask(SIG_SETMASK, &all, &old);
        same("open", open((char *)8, O_RDONLY), -1);
        same("its errno", errno, EFAULT);
        same("sigaction", syscall(SYS_rt_sigaction, SIGUSR2, 8, 0, 8), -1);
        same("its errno", errno, EFAULT);
        same("old action", syscall(SYS_rt_sigaction, SIGUSR2, 0, (void *)main, 8), -1);
        same("its errno", errno, EFAULT);
        same("sigprocmask", syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, 0, 8), -1);
        same("its errno", errno, EFAULT);
        int fd = open("/dev/null", O_RDONLY);
        if (fd < 0) fail("open", fd, 3);
        close(fd);
        same("no path", open("/no/such/file", O_RDONLY), -1);
        same("its errno", errno, ENOENT);
        if (round % 8 < 6) same("mask", sigprocmask(SIG_SETMASK, round % 2 ? &none : &old, 0), 0);
    }
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 60;
    if (argc > 2) calls_each = atoi(argv[2]);
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigaction(SIGALRM, &action, 0);
    sigaction(SIGUSR1, &action, 0);
    struct sigaction fault = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &fault, 0);
    zero = open("/dev/zero", O_RDONLY);
    sink = open("/dev/null", O_WRONLY);
    for (int round = 0; round < rounds; round++) {
        int status, pid = fork();
        if (!pid) { child(round); _exit(0); }
        same("wait", waitpid(pid, &status, 0), pid);
        same("status", status, 0);
    }
    wrong_addresses();
    // Text that is no private mapping of a file: written by the program itself, and shared with a file.
    static const unsigned char code[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc0, 0xc3};
    for (int kind = 0; kind < 3; kind++) {
        int fd = kind == 0 ? -1 : memfd_create("text", 0);
        if (fd >= 0 && write(fd, code, sizeof code) != sizeof code) fail("memfd", 0, 0);
        int flags = kind == 0 ? MAP_PRIVATE | MAP_ANONYMOUS : kind == 1 ? MAP_SHARED : MAP_PRIVATE;
        unsigned char *text = mmap(0, 4096, PROT_READ | PROT_WRITE | (kind == 2 ? PROT_EXEC : 0), flags, fd, 0);
        memcpy(text, code, sizeof code);
        if (kind < 2) mprotect(text, 4096, PROT_READ | PROT_EXEC);
        for (int i = 0; i < 20; i++) same("own text", ((long (*)(void))text)(), getpid());
        if (memcmp(text, code, sizeof code)) fail("own text changed", kind, 0);
        munmap(text, 4096);
    }
    // A real illegal instruction is the program's own.
    signal(SIGILL, on_fault);
    if (!sigsetjmp(back, 1)) asm volatile("ud2");
    printf("sites ok\n");
    return 0;
}
