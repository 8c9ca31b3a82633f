// Clocks: none goes back, not even the processor's, and those that run alike stay alike.
#include "witness.h"
#include <sys/resource.h>
#include <sys/times.h>

struct check clocks, cpu_time;

static const clockid_t ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
enum { IDS = sizeof ids / sizeof *ids };
static int64_t seen[IDS], asleep_low, asleep_high, lag;

static int64_t by_call(clockid_t id) {
    struct timespec t;
    syscall(SYS_clock_gettime, id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(int i, int64_t reading, const char *how) {
    reading -= lag;
    if (reading < seen[i])
        fail(&clocks, "clock %d went back by %ld ns (%s)", ids[i], (long)(seen[i] - reading), how);
    seen[i] = reading;
}

// CLOCK_BOOTTIME is CLOCK_MONOTONIC plus the time asleep: between two readings nobody slept.
static void compare(void) {
    int64_t before = now_ns(CLOCK_MONOTONIC), boot = now_ns(CLOCK_BOOTTIME), after = now_ns(CLOCK_MONOTONIC);
    int64_t low = boot - after, high = boot - before;
    if (asleep_high && (low > asleep_high || high < asleep_low))
        fail(&clocks, "boot time and monotonic time came apart by %ld ns", (long)(low - asleep_high));
    if (!asleep_high || low > asleep_low) asleep_low = low;
    if (!asleep_high || high < asleep_high) asleep_high = high;
}

static void clocks_tick(void) {
    for (int i = 0; i < IDS; i++) {
        note(i, now_ns(ids[i]), "vdso");
        note(i, by_call(ids[i]), "call");
    }
    compare();
}

static void clocks_start(void) { clocks_tick(); }
static void clocks_inject(void) { lag = 20000000; }

struct check clocks = {"clocks", clocks_start, clocks_tick, 0, clocks_inject, ""};

static int64_t process_seen, thread_seen, usage_seen, times_seen, burnt;

static void grown(const char *what, int64_t *seen_last, int64_t reading) {
    reading -= burnt;
    if (reading < *seen_last)
        fail(&cpu_time, "%s went back by %ld", what, (long)(*seen_last - reading));
    *seen_last = reading;
}

static void cpu_tick(void) {
    struct rusage usage;
    struct tms t;
    grown("the process's CPU time", &process_seen, now_ns(CLOCK_PROCESS_CPUTIME_ID));
    grown("the thread's CPU time", &thread_seen, now_ns(CLOCK_THREAD_CPUTIME_ID));
    getrusage(RUSAGE_SELF, &usage);
    grown("getrusage", &usage_seen, usage.ru_utime.tv_sec * 1000000LL + usage.ru_utime.tv_usec
        + usage.ru_stime.tv_sec * 1000000LL + usage.ru_stime.tv_usec);
    times(&t);
    grown("times", &times_seen, t.tms_utime + t.tms_stime);
}

static void cpu_start(void) { cpu_tick(); }
static void cpu_inject(void) { burnt = process_seen / 2; }

struct check cpu_time = {"cpu-time", cpu_start, cpu_tick, 0, cpu_inject, ""};
