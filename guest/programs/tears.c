// Threads on all processors, each interrupted 5,000 times a second, start programs, fork, make threads, write code and
// run it, fault and jump out of handlers, all at once: `tears ROUNDS`. Nothing may be lost, doubled or mixed up.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define TICK_NS 200000
#define QUEUED 8

extern char **environ;
static int rounds;
static atomic_int ready;

struct own {
    pthread_t thread;
    int number;
    volatile long ticks;
    volatile int queued[QUEUED], queued_count;
    sigjmp_buf back;
    volatile int may_jump;
};
static struct own all[THREADS];
static __thread struct own *self;
static __thread long tls = 77;

static void check(int good, const char *what, long detail) {
    if (good) return;
    printf("FAILED: thread %d: %s (%ld, errno %d)\n", self ? self->number : -1, what, detail, errno);
    fflush(stdout);
    _exit(1);
}

static void on_tick(int signal) {
    volatile double x = 1.5;
    int kept = errno;
    (void)signal;
    for (int i = 0; i < 5; i++) x *= 1.25;
    if (self) self->ticks++;
    // A call of its own, in the middle of whatever goes on.
    if (getppid() < 0) abort();
    errno = kept;
}

static void on_queued(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if (self->queued_count < QUEUED) self->queued[self->queued_count] = info->si_value.sival_int;
    self->queued_count++;
}

static void on_fault(int signal) {
    (void)signal;
    if (!self || !self->may_jump) abort();
    self->may_jump = 0;
    siglongjmp(self->back, 1);
}

static int ended(pid_t child) {
    int status = -1;
    pid_t found = waitpid(child, &status, 0);
    check(found == child, "waitpid", found);
    return status;
}

static void programs(int round) {
    char *arguments[] = {"true", NULL};
    pid_t child = vfork();
    if (child == 0) {
        execv(round & 1 ? "/bin/true" : "/nonexistent", arguments);
        _exit(errno == ENOENT ? 41 : 42);
    }
    check(child > 0, "vfork", child);
    int status = ended(child);
    check(status == (round & 1 ? 0 : 41 << 8), "the status of vfork's child", status);
    int error = posix_spawn(&child, "/nonexistent", NULL, NULL, arguments, environ);
    check(error == ENOENT, "posix_spawn of nothing", error);
    error = posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ);
    check(error == 0 && ended(child) == 0, "posix_spawn", error);
}

static void forks(int round) {
    long before = tls;
    pid_t child = fork();
    if (child == 0) {
        // Its own copy, and no thread but this one.
        tls++;
        _exit(tls == before + 1 && getpid() == gettid() ? round & 63 : 64);
    }
    check(child > 0, "fork", child);
    int status = ended(child);
    check(status == (round & 63) << 8 && tls == before, "the status of fork's child", status);
}

static void *short_lived(void *argument) {
    check(tls == 77, "a new thread's variable", tls);
    tls = (long)argument;
    for (int i = 0; i < 20; i++) sched_yield();
    return (void *)tls;
}

static void threads(int round) {
    pthread_t made[3];
    for (long i = 0; i < 3; i++) check(!pthread_create(&made[i], NULL, short_lived, (void *)(round + i)), "pthread_create", i);
    for (long i = 0; i < 3; i++) {
        void *said;
        check(!pthread_join(made[i], &said) && (long)said == round + i, "pthread_join", (long)said);
    }
}

/// Code that was never seen, run often enough to become hot, at an address that had other code before.
static void code(void) {
    static const struct { int number; int is_tid; } calls[] = {{SYS_getpid, 0}, {SYS_gettid, 1}, {SYS_getpid, 0}};
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(page != MAP_FAILED, "mmap", 0);
    for (int i = 0; i < 3; i++) {
        // mov $number, %eax; syscall; nop; ret
        unsigned char text[] = {0xb8, calls[i].number, calls[i].number >> 8, 0, 0, 0x0f, 0x05, 0x90, 0xc3};
        check(!mprotect(page, 4096, PROT_READ | PROT_WRITE), "mprotect", i);
        memcpy(page + 64 * i, text, sizeof text);
        memcpy(page, text, sizeof text);
        check(!mprotect(page, 4096, PROT_READ | PROT_EXEC), "mprotect", i);
        long wanted = calls[i].is_tid ? gettid() : getpid();
        for (int call = 0; call < 40; call++) {
            long found = ((long (*)(void))page)(), other = ((long (*)(void))(page + 64 * i))();
            check(found == wanted && other == wanted, "code that was written", found);
        }
    }
    check(!munmap(page, 4096), "munmap", 0);
}

static void faults(void) {
    for (int i = 0; i < 4; i++) {
        sigset_t before, after;
        pthread_sigmask(SIG_SETMASK, NULL, &before);
        if (sigsetjmp(self->back, 1) == 0) {
            self->may_jump = 1;
            *(volatile int *)16 = 1;
            check(0, "a fault", i);
        }
        pthread_sigmask(SIG_SETMASK, NULL, &after);
        check(!memcmp(&before, &after, 8), "the mask after a jump", i);
    }
}

static void queues(int round) {
    self->queued_count = 0;
    sigset_t queued, old;
    sigemptyset(&queued), sigaddset(&queued, SIGRTMIN + 1);
    pthread_sigmask(SIG_BLOCK, &queued, &old);
    for (int i = 0; i < QUEUED; i++)
        check(!pthread_sigqueue(pthread_self(), SIGRTMIN + 1, (union sigval){.sival_int = round * QUEUED + i}), "sigqueue", i);
    check(self->queued_count == 0, "blocked signals", self->queued_count);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    check(self->queued_count == QUEUED, "queued signals", self->queued_count);
    for (int i = 0; i < QUEUED; i++) check(self->queued[i] == round * QUEUED + i, "their order", self->queued[i]);
}

static void *work(void *argument) {
    self = argument;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = gettid();
    timer_t timer;
    check(!timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create", 0);
    ready++;
    while (ready < THREADS) sched_yield();
    struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}}, never = {{0, 0}, {0, 0}};
    check(!timer_settime(timer, 0, &every, NULL), "timer_settime", 0);
    for (int round = 0; round < rounds; round++) {
        double sum = 0;
        for (int k = 0; k < 64; k++) sum += k * 0.25;
        switch ((round + self->number) % 6) {
            case 0: programs(round); break;
            case 1: forks(round); break;
            case 2: threads(round); break;
            case 3: code(); break;
            case 4: faults(); break;
            default: queues(round);
        }
        check(sum == 504.0 && tls == 77, "registers", round);
    }
    check(!timer_settime(timer, 0, &never, NULL) && !timer_delete(timer), "the timer", 0);
    check(self->ticks > rounds / 12, "ticks", self->ticks);
    return NULL;
}

int main(int argc, char **argv) {
    rounds = argc > 1 ? atoi(argv[1]) : 60;
    struct sigaction tick = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct sigaction queued = {.sa_sigaction = on_queued, .sa_flags = SA_RESTART | SA_SIGINFO};
    struct sigaction fault = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGRTMIN, &tick, NULL), sigaction(SIGRTMIN + 1, &queued, NULL), sigaction(SIGSEGV, &fault, NULL);
    for (int i = 0; i < THREADS; i++) {
        all[i].number = i;
        if (pthread_create(&all[i].thread, NULL, work, &all[i])) return 2;
    }
    for (int i = 0; i < THREADS; i++) pthread_join(all[i].thread, NULL);
    errno = 0;
    check(wait(NULL) == -1 && errno == ECHILD, "children that are left", 0);
    puts("tears ok");
    return 0;
}
