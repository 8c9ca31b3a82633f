// Signals that wait, blocked: of the process, of its first thread, of another; then timers whose
// signals are blocked too. Each must be there once and in its order when it is taken.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// A move may make a timer later by less than this.
// A machine with other work may keep a timer from being set for so long; a period that is lost shows still.
enum { PERIOD_US = 2000, LATE_US = 1500 };
static const int dropped_by_default[] = {SIGCHLD, SIGURG, SIGWINCH};
static int of_process, of_first, of_other;
static pid_t other;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char wrong[200];

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static int to_thread(pid_t tid, int number, int value) {
    siginfo_t info = {0};
    info.si_code = SI_QUEUE;
    info.si_value.sival_int = value;
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, number, &info);
}

static int take(int number, siginfo_t *info) {
    struct timespec at_once = {0, 0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    return sigtimedwait(&set, info, &at_once);
}

static void expect(const char *whose, int number, int count) {
    siginfo_t info;
    for (int i = 0; i < count; i++)
        if (take(number, &info) != number || info.si_value.sival_int != i) {
            sprintf(wrong, "%s signal %d of %d is %d", whose, i, count, info.si_value.sival_int);
            return;
        }
}

// The other thread: takes its own when it is its turn.
static void *waits(void *unused) {
    other = syscall(SYS_gettid);
    pthread_mutex_lock(&turn);
    expect("the other's", SIGRTMIN + 3, of_other);
    pthread_mutex_unlock(&turn);
    return unused;
}

static int more(int count) {
    int good = 1;
    for (int i = 0; i < count; i++) {
        union sigval value = {.sival_int = of_process++};
        good &= sigqueue(getpid(), SIGRTMIN + 2, value) == 0;
        if (i % 100) continue;
        // The first thread's have the number of the process's.
        good &= to_thread(getpid(), SIGRTMIN + 2, of_first++) == 0;
        good &= to_thread(other, SIGRTMIN + 3, of_other++) == 0;
    }
    return good;
}

static timer_t timer;
static long long armed_after, armed_before; // between these instants

static void arm(void) {
    struct sigevent event = {0};
    event.sigev_signo = SIGRTMIN + 4;
    struct itimerspec period = {{0, PERIOD_US * 1000}, {0, PERIOD_US * 1000}};
    struct itimerval alarm = {{0, PERIOD_US}, {0, PERIOD_US}};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    armed_after = now_us();
    timer_settime(timer, 0, &period, 0);
    setitimer(ITIMER_REAL, &alarm, 0);
    armed_before = now_us() + LATE_US;
}

// A timer whose signal is blocked has sent one, with all that it missed.
static void expect_timers(void) {
    siginfo_t info;
    long long before = (now_us() - armed_before) / PERIOD_US;
    if (take(SIGRTMIN + 4, &info) != SIGRTMIN + 4 || info.si_code != SI_TIMER) strcpy(wrong, "no timer");
    long long after = (now_us() - armed_after) / PERIOD_US, count = info.si_overrun + 1;
    if (count < before || count > after || timer_getoverrun(timer) != info.si_overrun)
        sprintf(wrong, "%lld expirations, not %lld to %lld", count, before, after);
    struct itimerspec none = {0};
    timer_settime(timer, 0, &none, 0);
    if (take(SIGALRM, &info) != SIGALRM || info.si_code != SI_KERNEL) strcpy(wrong, "no alarm");
    // It keeps its rhythm: the next is due at a whole number of periods.
    struct itimerval left;
    long long asked = now_us();
    getitimer(ITIMER_REAL, &left);
    long long answered = now_us() - armed_after, due = asked + left.it_value.tv_usec - armed_before;
    // Of the instants between the two, one must be such a number.
    if ((answered + left.it_value.tv_usec) / PERIOD_US == (due - 1) / PERIOD_US)
        sprintf(wrong, "the alarm is %lld us off", (due - 1) % PERIOD_US);
}

static void expect_all(void) {
    siginfo_t info;
    expect("the first's", SIGRTMIN + 2, of_first);
    expect("the process's", SIGRTMIN + 2, of_process);
    if (take(SIGRTMIN + 2, &info) != -1) strcpy(wrong, "one too many");
    for (int i = 0; i < 3; i++)
        if (take(dropped_by_default[i], &info) != dropped_by_default[i]) sprintf(wrong, "no signal %d", dropped_by_default[i]);
    expect_timers();
    pthread_mutex_unlock(&turn);
}

int main(void) {
    char line[64];
    pthread_t thread;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, 0);
    pthread_mutex_lock(&turn);
    pthread_create(&thread, 0, waits, 0);
    while (!*(volatile pid_t *)&other) usleep(100);
    for (int i = 0; i < 3; i++) kill(getpid(), dropped_by_default[i]);
    arm();
    while (fgets(line, sizeof line, stdin)) {
        if (*line == 't') expect_all(), pthread_join(thread, 0);
        else if (!more(atoi(line))) strcpy(wrong, strerror(errno));
        printf("%s\n", *wrong ? wrong : "good");
        fflush(stdout);
    }
    return *wrong != 0;
}
