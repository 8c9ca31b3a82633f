// Waits with a time-out: none ends early, late or with an error. Nothing that they wait for comes.
#include "witness.h"
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

struct check waits, lateness;

enum { WAIT_MS = 120, THREADS = 5 };
static int silent[2], pair[2], epoll;
static volatile int extra_ms;
static pthread_t threads[THREADS];

static struct timespec in_ms(int ms) { return (struct timespec){ms / 1000, ms % 1000 * 1000000L}; }
static struct timespec at_ms(clockid_t clock, int ms) {
    int64_t then = now_ns(clock) + ms * 1000000LL;
    return (struct timespec){then / 1000000000, then % 1000000000};
}

// Each returns 0 if it ended as it should, else an errno, or -1 for something that cannot be.
static int timed_out(long result) { return result == 0 ? 0 : result < 0 ? errno : -1; }
static int with_error(long result, int expected) { return result < 0 && errno == expected ? 0 : result < 0 ? errno : -1; }

static int by_nanosleep(int ms) { struct timespec t = in_ms(ms); return timed_out(nanosleep(&t, 0)); }
static int until(int ms) { struct timespec t = at_ms(CLOCK_MONOTONIC, ms); return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0); }
static int by_poll(int ms) { struct pollfd p = {silent[0], POLLIN, 0}; return timed_out(poll(&p, 1, ms)); }
static int by_ppoll(int ms) { struct pollfd p = {pair[0], POLLIN, 0}; struct timespec t = in_ms(ms); return timed_out(ppoll(&p, 1, &t, 0)); }
static int by_select(int ms) { fd_set s; FD_ZERO(&s); FD_SET(silent[0], &s); struct timeval t = {ms / 1000, ms % 1000 * 1000}; return timed_out(select(silent[0] + 1, &s, 0, 0, &t)); }
static int by_pselect(int ms) { fd_set s; FD_ZERO(&s); FD_SET(pair[0], &s); struct timespec t = in_ms(ms); return timed_out(pselect(pair[0] + 1, &s, 0, 0, &t, 0)); }
static int by_epoll(int ms) { struct epoll_event e; return timed_out(epoll_wait(epoll, &e, 1, ms)); }
static int by_epoll_mask(int ms) { struct epoll_event e; sigset_t set; pthread_sigmask(SIG_BLOCK, 0, &set); return timed_out(epoll_pwait(epoll, &e, 1, ms, &set)); }
static int by_recv(int ms) {
    struct timeval t = {ms / 1000, ms % 1000 * 1000};
    char byte;
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    return with_error(recv(pair[0], &byte, 1, 0), EAGAIN);
}
static int by_sigtimedwait(int ms) { struct timespec t = in_ms(ms); sigset_t set; sigemptyset(&set); sigaddset(&set, SIGPWR); return with_error(sigtimedwait(&set, 0, &t), EAGAIN); }
static int by_condition(int ms) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    struct timespec t = at_ms(CLOCK_REALTIME, ms);
    pthread_mutex_lock(&mutex);
    int result = pthread_cond_timedwait(&condition, &mutex, &t);
    pthread_mutex_unlock(&mutex);
    return result == ETIMEDOUT ? 0 : result ? result : -1;
}
static int by_semaphore(int ms) {
    static sem_t never;
    struct timespec t = at_ms(CLOCK_REALTIME, ms);
    return with_error(sem_timedwait(&never, &t), ETIMEDOUT);
}
static int by_futex(int ms) {
    static int word;
    struct timespec t = in_ms(ms);
    return with_error(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, 0, 0), ETIMEDOUT);
}

static const struct { const char *name; int (*wait)(int ms); } kinds[] = {
    {"nanosleep", by_nanosleep}, {"clock_nanosleep", until}, {"poll", by_poll}, {"ppoll", by_ppoll},
    {"select", by_select}, {"pselect", by_pselect}, {"epoll_wait", by_epoll}, {"epoll_pwait", by_epoll_mask},
    {"recv", by_recv}, {"sigtimedwait", by_sigtimedwait}, {"a condition", by_condition},
    {"a semaphore", by_semaphore}, {"futex", by_futex},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void *waits_on(void *first) {
    sigset_t interrupting;
    sigemptyset(&interrupting);
    sigaddset(&interrupting, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &interrupting, 0);
    for (size_t i = (size_t)first; !stopping; i = (i + 1) % KINDS) {
        int64_t begun = now_ns(CLOCK_MONOTONIC);
        int result = kinds[i].wait(WAIT_MS + extra_ms);
        int64_t took = now_ns(CLOCK_MONOTONIC) - begun;
        if (result) fail(&waits, "%s ended with %s", kinds[i].name, result < 0 ? "something" : strerror(result));
        else if (took < WAIT_MS * 1000000LL - 100000) fail(&waits, "%s took %.2f ms of %d", kinds[i].name, took / 1e6, WAIT_MS);
        if (took > (WAIT_MS + LATE_MS) * 1000000LL) fail(&lateness, "%s took %ld ms", kinds[i].name, (long)(took / 1000000));
    }
    return 0;
}

static void nothing(int number) { (void)number; }

static void waits_start(void) {
    struct sigaction action = {0};
    action.sa_handler = nothing;
    need(sigaction(SIGURG, &action, 0) == 0, "sigaction");
    need(pipe2(silent, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "waits");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}};
    need(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, silent[0], &event) == 0, "epoll");
    for (size_t i = 0; i < THREADS; i++) threads[i] = begin(waits_on, (void *)(i * 3 % KINDS));
}

static void waits_finish(void) {
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
}

static void waits_inject(void) {
    for (int i = 0; i < THREADS; i++) pthread_kill(threads[i], SIGURG);
}

struct check waits = {"waits", waits_start, 0, waits_finish, waits_inject, ""};

// The threads are those of the check above; only what they find is told apart.
static void lateness_start(void) {}
static void lateness_inject(void) { extra_ms = LATE_MS + 200; }

struct check lateness = {"lateness", lateness_start, 0, 0, lateness_inject, ""};
