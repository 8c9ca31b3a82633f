// Threads: many of them, cancellation, robust and process-shared mutexes, identities, exit orders.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, int good) { printf("%-28s %s\n", what, good ? "ok" : "FAILED"); }
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long sum;

static void *add(void *arg) {
    for (int i = 0; i < 200; i++) { pthread_mutex_lock(&lock); sum += (long)arg; pthread_mutex_unlock(&lock); }
    return arg;
}
static void *wait_forever(void *arg) { (void)arg; for (;;) pause(); return 0; }
static pthread_mutex_t robust;
static void *die_holding(void *arg) { (void)arg; pthread_mutex_lock(&robust); return 0; }
static volatile pid_t tid;
static void *identify(void *arg) { (void)arg; tid = syscall(SYS_gettid); return (void *)(long)(getpid() == *(pid_t *)arg); }
static void *exec_here(void *arg) { (void)arg; execl("/bin/sh", "sh", "-c", "exit 6", (char *)0); return 0; }
static volatile int got;
static void on_usr(int s) { (void)s; got = syscall(SYS_gettid); }

int main(void) {
    pthread_t threads[64];
    for (int round = 0; round < 10; round++) {
        for (long i = 0; i < 64; i++) if (pthread_create(&threads[i], 0, add, (void *)(i + 1))) return 2;
        for (long i = 0; i < 64; i++) { void *r; pthread_join(threads[i], &r); if ((long)r != i + 1) return 3; }
    }
    say("640 threads", sum == 10L * 200 * 64 * 65 / 2);
    pthread_create(threads, 0, wait_forever, 0);
    pthread_cancel(threads[0]);
    void *result;
    pthread_join(threads[0], &result);
    say("cancellation", result == PTHREAD_CANCELED);
    pid_t me = getpid();
    pthread_create(threads, 0, identify, &me);
    pthread_join(threads[0], &result);
    say("identities", result && tid != me && tid > 0 && syscall(SYS_gettid) == me);
    signal(SIGUSR1, on_usr);
    pthread_create(threads, 0, wait_forever, 0);
    while (pthread_kill(threads[0], SIGUSR1) == 0 && got == 0) usleep(1000);
    say("pthread_kill", got != 0 && got != me);
    pthread_cancel(threads[0]);
    pthread_join(threads[0], 0);

    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(threads, 0, die_holding, 0);
    pthread_join(threads[0], 0);
    int locked = pthread_mutex_lock(&robust);
    pthread_mutex_consistent(&robust);
    say("robust mutex", locked == EOWNERDEAD && pthread_mutex_unlock(&robust) == 0);

    pthread_mutex_t *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(shared, &attributes);
    pid_t child = fork();
    if (!child) { pthread_mutex_lock(shared); _exit(0); }
    waitpid(child, 0, 0);
    say("robust across processes", pthread_mutex_lock(shared) == EOWNERDEAD);

    int status;
    child = fork();
    if (!child) { pthread_create(threads, 0, exec_here, 0); pause(); _exit(1); }
    say("exec from a thread", waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 6);
    child = fork();
    if (!child) { pthread_create(threads, 0, add, (void *)1); pthread_exit(0); }
    say("main thread leaves first", waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
