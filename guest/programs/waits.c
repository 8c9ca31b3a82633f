// Each call that waits, with its result, its counts and the time it took. What interrupts a process
// without its knowledge must not show: the output is the same with and without.
#define _GNU_SOURCE
#include "waits.h"
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>

static int empty[2];
static volatile int word;
static int queue, set;

static void put(void *arg) { (void)!write(*(int *)arg, "x", 1); }

static void polls(void) {
    struct pollfd p = {empty[0], POLLIN, 0};
    begin(); ended("poll", poll(&p, 1, 60), 0, 60);
    begin(); ended("poll without members", poll(0, 0, 60), 0, 60);
    begin(); ended("poll of nothing new", poll(&p, 1, 0), 0, 0);
    struct timespec t = {0, 60000000};
    begin(); ended("ppoll", syscall(SYS_ppoll, &p, 1, &t, 0, 8), 0, 60);
    say("ppoll's rest", t.tv_sec == 0 && t.tv_nsec == 0);
    sigset_t none;
    sigemptyset(&none);
    t = (struct timespec){0, 60000000};
    begin(); ended("ppoll with a mask", syscall(SYS_ppoll, &p, 1, &t, &none, 8), 0, 60);
    t = (struct timespec){5, 0};
    begin(); later(30, put, &empty[1]);
    ended("ppoll that finds", syscall(SYS_ppoll, &p, 1, &t, 0, 8), 1, 20);
    say("ppoll's rest then", t.tv_sec <= 4);
    take(empty[0]);
    begin(); later(30, put, &empty[1]);
    ended("poll without end", poll(&p, 1, -1), 1, 20);
    take(empty[0]);

    fd_set r;
    struct timeval v = {0, 60000};
    FD_ZERO(&r); FD_SET(empty[0], &r);
    begin(); ended("select", syscall(SYS_select, empty[0] + 1, &r, 0, 0, &v), 0, 60);
    say("select's rest", v.tv_sec == 0 && v.tv_usec == 0 && !FD_ISSET(empty[0], &r));
    FD_SET(empty[0], &r);
    v = (struct timeval){5, 0};
    begin(); later(30, put, &empty[1]);
    ended("select that finds", syscall(SYS_select, empty[0] + 1, &r, 0, 0, &v), 1, 20);
    say("select's rest then", v.tv_sec <= 4 && FD_ISSET(empty[0], &r));
    take(empty[0]);
    t = (struct timespec){0, 60000000};
    begin(); ended("pselect", pselect(empty[0] + 1, &r, 0, 0, &t, &none), 0, 60);

    struct epoll_event e = {EPOLLIN, {0}};
    int ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, empty[0], &e);
    begin(); ended("epoll_wait", syscall(SYS_epoll_wait, ep, &e, 1, 60), 0, 60);
    begin(); ended("epoll_pwait", epoll_pwait(ep, &e, 1, 60, &none), 0, 60);
    t = (struct timespec){0, 60000000};
    begin(); ended("epoll_pwait2", syscall(SYS_epoll_pwait2, ep, &e, 1, &t, 0, 8), 0, 60);
    begin(); ended("epoll_pwait2 with a mask", syscall(SYS_epoll_pwait2, ep, &e, 1, &t, &none, 8), 0, 60);
    begin(); later(30, put, &empty[1]);
    ended("epoll_wait without end", epoll_wait(ep, &e, 1, -1), 1, 20);
    take(empty[0]);
    close(ep);
}

static void sleeps(void) {
    struct timespec t = {0, 70000000}, left = {7, 7};
    begin(); ended("nanosleep", syscall(SYS_nanosleep, &t, &left), 0, 70);
    say("nanosleep leaves rem alone", left.tv_sec == 7 && left.tv_nsec == 7);
    int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI};
    for (int i = 0; i < 4; i++) {
        begin(); ended("clock_nanosleep", syscall(SYS_clock_nanosleep, clocks[i], 0, &t, &left), 0, 70);
        struct timespec end;
        begin();
        clock_gettime(clocks[i], &end);
        end.tv_nsec += 70000000;
        if (end.tv_nsec >= 1000000000) { end.tv_nsec -= 1000000000; end.tv_sec++; }
        ended("clock_nanosleep until", syscall(SYS_clock_nanosleep, clocks[i], TIMER_ABSTIME, &end, 0), 0, 69);
    }
    t.tv_nsec = 1000000000;
    failed("nanosleep of a wrong span", syscall(SYS_nanosleep, &t, 0), EINVAL);
    failed("nanosleep without a span", syscall(SYS_nanosleep, (void *)8, 0), EFAULT);
    t.tv_nsec = 0;
    failed("clock_nanosleep of no clock", syscall(SYS_clock_nanosleep, 77, 0, &t, 0), EINVAL);
}

static void wake(void *arg) { (void)arg; word = 1; syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0, 0, 0); }

static struct timespec until(int clock, int ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000L;
    if (t.tv_nsec >= 1000000000) { t.tv_nsec -= 1000000000; t.tv_sec++; }
    return t;
}

static void futexes(void) {
    struct timespec t = {0, 60000000};
    begin(); fails("futex", syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0), ETIMEDOUT, 60);
    begin(); fails("futex, private", syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, 0, 0), ETIMEDOUT, 60);
    struct timespec end;
    begin();
    end = until(CLOCK_MONOTONIC, 60);
    fails("futex until", syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &end, 0, 1), ETIMEDOUT, 59);
    begin();
    end = until(CLOCK_REALTIME, 60);
    fails("futex until, real time", syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &end, 0, 1), ETIMEDOUT, 59);
    struct { unsigned long value, address; unsigned flags, pad; } v = {0, (unsigned long)&word, 2, 0};
    begin();
    end = until(CLOCK_MONOTONIC, 60);
    fails("futex_waitv", syscall(449, &v, 1, 0, &end, CLOCK_MONOTONIC), ETIMEDOUT, 59);
    t.tv_sec = 5;
    begin(); later(30, wake, 0);
   
    while (word == 0) if (syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0) && errno != EAGAIN) break;
    ended("futex that is woken", word, 1, 20);
    word = 0;
    begin(); later(30, wake, 0);
   
    while (word == 0) if (syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0) && errno != EAGAIN) break;
    ended("futex without end", word, 1, 20);
    sem_t s;
    sem_init(&s, 0, 0);
    begin();
    end = until(CLOCK_REALTIME, 60);
    fails("sem_timedwait", sem_timedwait(&s, &end), ETIMEDOUT, 59);
    begin(); later(30, (void (*)(void *))sem_post, &s);
    ended("sem_wait", sem_wait(&s), 0, 20);
}

static void raise_semaphore(void *arg) { (void)arg; struct sembuf op = {0, 1, 0}; semop(set, &op, 1); }
static void message(void *arg) { (void)arg; struct { long kind; char text; } m = {1, 'x'}; msgsnd(queue, &m, 1, 0); }
static void unqueue(void *arg) { (void)arg; struct { long kind; char text[8192]; } m; msgrcv(queue, &m, 8192, 0, 0); }
static mqd_t posix;
static void post(void *arg) { (void)arg; mq_send(posix, "x", 1, 0); }
static void unpost(void *arg) { (void)arg; char c[8]; mq_receive(posix, c, 8, 0); }

static void queues(void) {
    set = semget(IPC_PRIVATE, 1, 0600);
    queue = msgget(IPC_PRIVATE, 0600);
    struct sembuf op = {0, -1, 0};
    struct timespec t = {0, 60000000};
    begin(); fails("semtimedop", semtimedop(set, &op, 1, &t), EAGAIN, 59);
    begin(); later(30, raise_semaphore, 0);
    ended("semop", semop(set, &op, 1), 0, 20);
    struct { long kind; char text[8192]; } m = {1, {0}};
    begin(); later(30, message, 0);
    ended("msgrcv", msgrcv(queue, &m, 8192, 0, 0), 1, 20);
    while (msgsnd(queue, &m, 8192, IPC_NOWAIT) == 0) {}
    begin(); later(30, unqueue, 0);
    ended("msgsnd", msgsnd(queue, &m, 8192, 0), 0, 20);
    msgctl(queue, IPC_RMID, 0);
    semctl(set, 0, IPC_RMID);

    struct mq_attr attr = {0, 2, 8, 0};
    char name[32], text[8];
    snprintf(name, sizeof name, "/waits-%d", getpid());
    posix = mq_open(name, O_RDWR | O_CREAT, 0600, &attr);
    mq_unlink(name);
    if (posix < 0) return;
    struct timespec end;
    begin();
    end = until(CLOCK_REALTIME, 60);
    fails("mq_timedreceive", mq_timedreceive(posix, text, 8, 0, &end), ETIMEDOUT, 59);
    begin(); later(30, post, 0);
    ended("mq_receive", mq_receive(posix, text, 8, 0), 1, 20);
    mq_send(posix, "x", 1, 0); mq_send(posix, "x", 1, 0);
    begin(); later(30, unpost, 0);
    ended("mq_send", mq_send(posix, "x", 1, 0), 0, 20);
}

static int second[2];

static void events(void) {
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, 8, &context)) return;
    struct io_event got[4];
    struct timespec t = {0, 60000000};
    begin(); ended("io_getevents", syscall(SYS_io_getevents, context, 1, 4, got, &t), 0, 60);
    struct iocb a = {0}, b = {0}, *list[] = {&a, &b};
    a.aio_lio_opcode = b.aio_lio_opcode = 5;
    a.aio_fildes = empty[0]; b.aio_fildes = second[0];
    a.aio_buf = b.aio_buf = POLLIN;
    syscall(SYS_io_submit, context, 2, list);
    begin(); later(20, put, &empty[1]);
    later(60, put, &second[1]);
    ended("io_getevents of two", syscall(SYS_io_getevents, context, 2, 4, got, 0), 2, 50);
    take(empty[0]); take(second[0]);
    syscall(SYS_io_destroy, context);
}

int main(void) {
    if (pipe(empty) || pipe(second)) return 2;
    polls();
    sleeps();
    futexes();
    queues();
    events();
    return 0;
}
