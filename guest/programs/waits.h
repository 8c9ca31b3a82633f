// What the programs about waiting calls share: a clock, helpers that act later, and reports.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// How much longer than asked a wait may take on a busy machine.
enum { LATE_MS = 4000 };
static double started;

static inline double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static inline void begin(void) { errno = 0; started = now_ms(); }

static inline void say(const char *what, int good) { printf("%-36s %s\n", what, good ? "ok" : "FAILED"); fflush(stdout); }

// The call gave `result`, and took at least `ms`.
static inline void ended(const char *what, long result, long wanted, double ms) {
    int error = errno;
    double took = now_ms() - started;
    if (result == wanted && took >= ms && took < ms + LATE_MS) { say(what, 1); return; }
    printf("%-36s FAILED: %ld (wanted %ld), errno %d, %.3f ms\n", what, result, wanted, error, took);
    fflush(stdout);
}
static inline void fails(const char *what, long result, int wanted, double ms) {
    int error = errno;
    double took = now_ms() - started;
    if (result == -1 && error == wanted && took >= ms && took < ms + LATE_MS) { say(what, 1); return; }
    printf("%-36s FAILED: %ld, errno %d (wanted %d), %.3f ms\n", what, result, error, wanted, took);
    fflush(stdout);
}
static inline void failed(const char *what, long result, int wanted) { started = now_ms(); fails(what, result, wanted, 0); }

static inline void take(int fd) { char c; (void)!read(fd, &c, 1); }

struct later { int ms; void (*act)(void *); void *arg; };
static inline void *act_later(void *arg) {
    struct later *l = arg;
    struct timespec t = {l->ms / 1000, l->ms % 1000 * 1000000L};
    nanosleep(&t, 0);
    l->act(l->arg);
    free(l);
    return 0;
}
// Lets a thread call `act(arg)` after some time.
static inline void later(int ms, void (*act)(void *), void *arg) {
    struct later *l = malloc(sizeof *l);
    *l = (struct later){ms, act, arg};
    pthread_t thread;
    pthread_create(&thread, 0, act_later, l);
    pthread_detach(thread);
}
