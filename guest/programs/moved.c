// What a move must not change: registers, thread-local storage, identities, locks, joins, signal stacks.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

#define WORKERS 4
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long shared, signals;
static __thread uint64_t local;
static pid_t pid;

static void fail(const char *what) { printf("FAILED: %s\n", what); fflush(stdout); _exit(1); }

static uint64_t nanos(struct timespec t) { return t.tv_sec * 1000000000ull + t.tv_nsec; }
static uint64_t micros(struct timeval t) { return t.tv_sec * 1000000ull + t.tv_usec; }

// What only grows: the clock, and the CPU time of thread and process as each call tells it.
#define GROWING 8
static void read_growing(uint64_t *all) {
    struct timespec t;
    struct rusage usage;
    struct tms ticks;
    clockid_t clock;
    clock_gettime(CLOCK_MONOTONIC, &t), all[0] = nanos(t);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), all[1] = nanos(t);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), all[2] = nanos(t);
    if (pthread_getcpuclockid(pthread_self(), &clock) || clock_gettime(clock, &t)) fail("the thread's clock");
    all[3] = nanos(t);
    getrusage(RUSAGE_THREAD, &usage), all[4] = micros(usage.ru_utime) + micros(usage.ru_stime);
    getrusage(RUSAGE_SELF, &usage), all[5] = micros(usage.ru_utime), all[6] = micros(usage.ru_stime);
    times(&ticks), all[7] = ticks.tms_utime;
}

static void check_growing(uint64_t *last) {
    uint64_t all[GROWING];
    read_growing(all);
    for (int i = 0; i < GROWING; i++) {
        if (all[i] >= last[i]) continue;
        printf("FAILED: time %d went back from %lu to %lu\n", i, last[i], all[i]);
        fflush(stdout);
        _exit(1);
    }
    memcpy(last, all, sizeof all);
}

// Keeps values in general and vector registers while nothing else runs.
static double in_registers(uint64_t seed) {
    double sum = 0;
    for (int round = 0; round < 2000; round++) {
        register double a = seed, b = a + 1, c = a + 2, d = a + 3;
        uint64_t r = seed;
        for (int i = 0; i < 200; i++) {
            __asm__ volatile("addsd %2, %0\n\tmulsd %3, %1\n\trol $7, %4" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+r"(r));
            b = b > 1e12 ? b / 1e12 : b;
        }
        sum += a + b + c + d + (double)(r >> 11);
    }
    return sum;
}

static void on_signal(int signal, siginfo_t *info, void *context) {
    char on_stack;
    stack_t stack;
    sigaltstack(0, &stack);
    if (!(stack.ss_flags & SS_ONSTACK)) fail("signal stack");
    if ((uintptr_t)&on_stack - (uintptr_t)stack.ss_sp > stack.ss_size) fail("place on the signal stack");
    __atomic_fetch_add(&signals, 1, __ATOMIC_RELAXED);
    in_registers(local);
}

static void *worker(void *arg) {
    long number = (long)arg;
    pid_t tid = syscall(SYS_gettid);
    stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
    sigaltstack(&stack, 0);
    local = number;
    double sum = 0;
    uint64_t last[GROWING];
    read_growing(last);
    for (int round = 0; round < 60; round++) {
        double got = in_registers(number * 1000 + round);
        if (got != in_registers(number * 1000 + round)) fail("registers");
        sum += got;
        local = local * 6364136223846793005ull + 1442695040888963407ull;
        if (syscall(SYS_gettid) != tid || getpid() != pid) fail("identity");
        check_growing(last);
        pthread_mutex_lock(&lock);
        shared += number;
        pthread_mutex_unlock(&lock);
        if (round % 8 == 0) pthread_kill(pthread_self(), SIGUSR1);
    }
    double *result = malloc(sizeof *result);
    *result = sum + (double)(local >> 40);
    return result;
}

static void *nothing(void *arg) { return arg; }

static void *churn(void *arg) {
    for (long i = 0; i < 300; i++) {
        pthread_t thread;
        void *got;
        if (pthread_create(&thread, 0, nothing, (void *)i)) fail("pthread_create");
        if (pthread_join(thread, &got) || (long)got != i) fail("pthread_join");
        char *memory = malloc(i * 1000 + 1);
        memset(memory, i, i * 1000 + 1);
        free(memory);
        in_registers(i);
    }
    return 0;
}

int main(void) {
    pthread_t threads[WORKERS], churner;
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    pid = getpid();
    puts("ready");
    fflush(stdout);
    sigaction(SIGUSR1, &action, 0);
    for (long i = 0; i < WORKERS; i++) pthread_create(&threads[i], 0, worker, (void *)(i + 1));
    pthread_create(&churner, 0, churn, 0);
    for (int i = 0; i < WORKERS; i++) {
        double *sum;
        pthread_join(threads[i], (void **)&sum);
        printf("worker %d: %a\n", i, *sum);
    }
    pthread_join(churner, 0);
    printf("shared %ld signals %ld\n", shared, signals);
    return 0;
}
