// Signals: none is lost, doubled, out of order or nobody's; timers go on as if nothing had been.
//
// One thread takes them all, in sigsuspend(2), which must not return without one.
#include "witness.h"
#include <sys/time.h>

struct check signals, timers;

enum { PERIOD_MS = 3, ALARM_MS = 10 };
static pthread_t receiver;
static volatile unsigned handled, user_sent, user_taken, queued, queued_taken, alarms, timer_signals;
static volatile int64_t user_sent_at, expirations, last_alarm;
static int64_t armed_after, armed_before; // the timers were started between these
static timer_t timer;
static pid_t self;
static volatile bool enough;

static void on_user(int number, siginfo_t *info, void *context) {
    (void)context;
    handled++;
    user_taken++;
    if (number != SIGUSR1 || info->si_pid != self || info->si_code != SI_USER || info->si_uid != getuid())
        fail(&signals, "SIGUSR1 says it is from %d, code %d", info->si_pid, info->si_code);
}

static void on_queued(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    handled++;
    if (info->si_value.sival_int != (int)queued_taken)
        fail(&signals, "queued signal %d came instead of %u", info->si_value.sival_int, queued_taken);
    queued_taken++;
    if (info->si_pid != self || info->si_code != SI_QUEUE) fail(&signals, "a queued signal from %d", info->si_pid);
}

static void on_timer(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    handled++;
    expirations += 1 + info->si_overrun;
    timer_signals++; // last: who sees it has all of them
}

static void on_alarm(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    handled++;
    alarms++;
    last_alarm = now_ns(CLOCK_MONOTONIC);
}

static void *receives(void *unused) {
    (void)unused;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    // What stays pending for others, and what interrupts waits, is not for this thread.
    sigaddset(&none, SIGUSR2), sigaddset(&none, SIGIO), sigaddset(&none, SIGURG), sigaddset(&none, SIGRTMIN + 5);
    while (!enough) {
        unsigned before = handled;
        int result = sigsuspend(&none);
        if (result != -1 || errno != EINTR || handled == before)
            fail(&signals, "sigsuspend returned %d (%s) without a signal", result, strerror(errno));
    }
    return 0;
}

static void install(int number, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {0};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigfillset(&action.sa_mask);
    need(sigaction(number, &action, 0) == 0, "sigaction");
}

static void signals_start(void) {
    self = getpid();
    install(SIGUSR1, on_user);
    install(SIGRTMIN + 1, on_queued);
    install(SIGRTMIN + 3, on_timer);
    install(SIGALRM, on_alarm);
    receiver = begin(receives, 0);
    // One stays pending for the process, one for this thread.
    need(sigqueue(self, SIGUSR2, (union sigval){.sival_int = 77}) == 0, "sigqueue");
    need(pthread_kill(pthread_self(), SIGIO) == 0, "pthread_kill");
}

static void signals_tick(void) {
    struct sigaction now;
    sigset_t pending;
    for (int i = 0; i < 3; i++)
        if (sigqueue(self, SIGRTMIN + 1, (union sigval){.sival_int = (int)queued++})) fail(&signals, "sigqueue: %s", strerror(errno));
    // The same signal twice would be one: the next is sent when the last has come.
    if (user_taken == user_sent) {
        user_sent_at = now_ns(CLOCK_MONOTONIC);
        user_sent++;
        kill(self, SIGUSR1);
    } else if (now_ns(CLOCK_MONOTONIC) - user_sent_at > LATE_MS * 1000000LL) {
        fail(&signals, "SIGUSR1 was lost");
    }
    if (user_taken > user_sent) fail(&signals, "SIGUSR1 came twice");
    sigpending(&pending);
    if (!sigismember(&pending, SIGUSR2) || !sigismember(&pending, SIGIO)) fail(&signals, "a pending signal is gone");
    sigaction(SIGUSR1, 0, &now);
    if (now.sa_sigaction != on_user || !(now.sa_flags & SA_RESTART)) fail(&signals, "a handler changed");
}

static void take_pending(int number, int value) {
    struct timespec soon = {0, 0};
    siginfo_t info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    if (sigtimedwait(&set, &info, &soon) != number) return fail(&signals, "pending signal %d is gone", number);
    if (info.si_pid != self || (value && info.si_value.sival_int != value)) fail(&signals, "pending signal %d changed", number);
    if (sigtimedwait(&set, &info, &soon) != -1) fail(&signals, "pending signal %d is there twice", number);
}

static void wait_for(volatile unsigned *count, unsigned expected) {
    for (int i = 0; i < LATE_MS && *count != expected; i++) sleep_ms(1);
}

static void signals_finish(void) {
    wait_for(&queued_taken, queued);
    if (queued_taken != queued) fail(&signals, "%u of %u queued signals came", queued_taken, queued);
    enough = true;
    kill(self, SIGUSR1); // so that sigsuspend returns once more
    pthread_join(receiver, 0);
    take_pending(SIGUSR2, 77);
    take_pending(SIGIO, 0);
}

static void signals_inject(void) { queued++; }

struct check signals = {"signals", signals_start, signals_tick, signals_finish, signals_inject, ""};

static void arm(int period_ms) {
    struct itimerspec period = {{0, period_ms * 1000000}, {0, period_ms * 1000000}};
    need(timer_settime(timer, 0, &period, 0) == 0, "timer_settime");
}

static void timers_start(void) {
    struct sigevent event = {0};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN + 3;
    need(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    armed_after = last_alarm = now_ns(CLOCK_MONOTONIC);
    arm(PERIOD_MS);
    armed_before = now_ns(CLOCK_MONOTONIC);
    struct itimerval alarm = {{0, ALARM_MS * 1000}, {0, ALARM_MS * 1000}};
    need(setitimer(ITIMER_REAL, &alarm, 0) == 0, "setitimer");
}

static int64_t due(int64_t since, int period_ms) { return (now_ns(CLOCK_MONOTONIC) - since) / (period_ms * 1000000LL); }

static void timers_tick(void) {
    // What has come is read before the clock: time may pass in between, and bring more.
    int64_t come = expirations, come_alarms = alarms, is_due = due(armed_after, PERIOD_MS), alarms_due = due(armed_after, ALARM_MS);
    if (come > is_due + 1) fail(&timers, "%ld expirations, %ld are due", (long)come, (long)is_due);
    if (come_alarms > alarms_due + 1) fail(&timers, "%ld alarms, %ld are due", (long)come_alarms, (long)alarms_due);
    int64_t since = now_ns(CLOCK_MONOTONIC) - last_alarm;
    if (since > LATE_MS * 1000000LL) fail(&timers, "no alarm for %ld ms", (long)(since / 1000000));
}

static void timers_finish(void) {
    // The second signal from now on was sent after now: with it all has come that is due.
    int64_t expected = due(armed_before, PERIOD_MS);
    unsigned before = timer_signals;
    for (int i = 0; i < LATE_MS && timer_signals < before + 2; i++) sleep_ms(1);
    if (expirations < expected) fail(&timers, "%ld expirations of %ld", (long)expirations, (long)expected);
    struct itimerval none = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &none, 0);
    timer_delete(timer);
}

static void timers_inject(void) { arm(4 * PERIOD_MS); }

struct check timers = {"timers", timers_start, timers_tick, timers_finish, timers_inject, ""};
