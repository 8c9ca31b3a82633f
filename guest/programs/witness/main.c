// Watches from inside whether a process can tell that it is being moved.
//
//     witness MILLISECONDS [--inject CHECK | --only CHECK | --without CHECK]
//
// Prints a line for each check, the same in each run where all hold, and exits with 0 only then.
// Figures of the run go to standard error.
#include "witness.h"
#include <stdarg.h>

extern struct check clocks, cpu_time, identity, state, files, descriptors, memory, registers, signals,
    timers, waits, lateness, streams, sockets, children, objects;
static struct check *checks[] = {&clocks, &cpu_time, &identity, &state, &files, &memory, &registers,
    &timers, &signals, &waits, &lateness, &streams, &sockets, &children, &objects, &descriptors};
enum { INJECT_AT = 60 };
static int count = sizeof checks / sizeof *checks;

volatile bool stopping;
unsigned ticks;
static pthread_mutex_t notes = PTHREAD_MUTEX_INITIALIZER;

void fail(struct check *check, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&notes);
    if (!*check->failure) vsnprintf(check->failure, sizeof check->failure, format, arguments);
    pthread_mutex_unlock(&notes);
    va_end(arguments);
}

void need(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "witness: %s: %s\n", what, strerror(errno));
    exit(2);
}

pthread_t begin(void *(*run)(void *), void *argument) {
    pthread_t thread;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    need(pthread_create(&thread, 0, run, argument) == 0, "thread");
    pthread_sigmask(SIG_SETMASK, &old, 0);
    return thread;
}

int64_t now_ns(clockid_t clock) {
    struct timespec t;
    need(clock_gettime(clock, &t) == 0, "clock_gettime");
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void sleep_ms(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, 0);
}

uint64_t next_random(uint64_t *state) { // splitmix64
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static struct check *find(const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(checks[i]->name, name)) return checks[i];
    fprintf(stderr, "witness: no check %s\n", name);
    exit(2);
}

static void leave_out(const struct check *check) {
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (checks[i] != check) checks[kept++] = checks[i];
    count = kept;
}

static void list(void) {
    for (int i = 0; i < count; i++) puts(checks[i]->name);
    exit(0);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--list")) list();
    int64_t length = argc > 1 ? atoll(argv[1]) * 1000000 : 0;
    need(length > 0 && (argc == 2 || argc == 4), "usage: witness MILLISECONDS [--inject|--only|--without CHECK] | --list");
    struct check *named = argc == 4 ? find(argv[3]) : 0, *injected = 0;
    if (named && !strcmp(argv[2], "--only")) checks[0] = named, count = 1;
    else if (named && !strcmp(argv[2], "--without")) leave_out(named);
    else injected = named;
    // Signals are for the thread that counts them.
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, 0);
    for (int i = 0; i < count; i++) checks[i]->start();
    int64_t begun = now_ns(CLOCK_MONOTONIC), last = begun, gap = 0;
    while (now_ns(CLOCK_MONOTONIC) - begun < length) {
        if (injected && ticks == INJECT_AT) injected->inject();
        for (int i = 0; i < count; i++)
            if (checks[i]->tick) checks[i]->tick();
        ticks++;
        sleep_ms(1);
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (now - last > gap) gap = now - last;
        last = now;
    }
    need(!injected || ticks > INJECT_AT, "too short a run for a fault");
    stopping = true;
    int failed = 0;
    for (int i = 0; i < count; i++)
        if (checks[i]->finish) checks[i]->finish();
    for (int i = 0; i < count; i++) {
        failed += *checks[i]->failure != 0;
        printf("%-12s %s%s\n", checks[i]->name, *checks[i]->failure ? "FAILED: " : "ok", checks[i]->failure);
    }
    fprintf(stderr, "witness: %u ticks, longest gap %.1f ms\n", ticks, gap / 1e6);
    return failed != 0;
}
