// A thread waits in a call; once it sleeps there, a signal of a higher number than 16 comes. Without
// SA_RESTART the call ends with EINTR each time, with it no call that restarts does; a signal is never lost.
#define _GNU_SOURCE
#include "waits.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { ROUNDS = 60 };
static int empty[2], full[2], pair[2], listener, queue, set, epoll_fd, locked, holder[2];
static int word;
static pid_t child, waiter;
static volatile int handled, waiting;

static void handler(int signal) { (void)signal; handled++; errno = 12345; }

static long do_read(void) { char c; return read(empty[0], &c, 1); }
static long do_write(void) { return write(full[1], "x", 1); }
static long do_recv(void) { char c; return recv(pair[0], &c, 1, 0); }
static long do_accept(void) { return accept(listener, 0, 0); }
static long do_flock(void) { return flock(locked, LOCK_EX); }
static long do_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0); }
static long do_wait(void) { return waitpid(child, 0, 0); }
static long do_lock(void) { struct flock l = {F_WRLCK, SEEK_SET, 0, 1, 0}; return fcntl(locked, F_SETLKW, &l); }
static long do_poll(void) { struct pollfd p = {empty[0], POLLIN, 0}; return poll(&p, 1, 60000); }
static long do_endless_poll(void) { struct pollfd p = {empty[0], POLLIN, 0}; return poll(&p, 1, -1); }
static long do_ppoll(void) { struct pollfd p = {empty[0], POLLIN, 0}; sigset_t none; sigemptyset(&none); return ppoll(&p, 1, 0, &none); }
static long do_select(void) { fd_set r; FD_ZERO(&r); FD_SET(empty[0], &r); struct timeval t = {60, 0}; return select(empty[0] + 1, &r, 0, 0, &t); }
static long do_epoll(void) { struct epoll_event e; return epoll_wait(epoll_fd, &e, 1, 60000); }
static long do_sleep(void) { struct timespec t = {60, 0}; return syscall(SYS_nanosleep, &t, 0); }
static long do_timed_futex(void) { struct timespec t = {60, 0}; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0); }
static long do_pause(void) { return pause(); }
static long do_suspend(void) { sigset_t none; sigemptyset(&none); return sigsuspend(&none); }
static long do_timedwait(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR1); struct timespec t = {60, 0}; return sigtimedwait(&s, 0, &t); }
static long do_msgrcv(void) { struct { long kind; char text; } m; return msgrcv(queue, &m, 1, 0, 0); }
static long do_semop(void) { struct sembuf op = {0, -1, 0}; return semop(set, &op, 1); }
static long do_limited(void) { char c; return recv(pair[1], &c, 1, 0); }

static struct { const char *name; long (*call)(void); int restarts; } calls[] = {
    {"read", do_read, 1}, {"write", do_write, 1}, {"recv", do_recv, 1}, {"accept", do_accept, 1},
    {"flock", do_flock, 1}, {"futex", do_futex, 1}, {"waitpid", do_wait, 1}, {"F_SETLKW", do_lock, 1},
    {"poll", do_poll, 0}, {"poll without end", do_endless_poll, 0}, {"ppoll", do_ppoll, 0},
    {"select", do_select, 0}, {"epoll_wait", do_epoll, 0}, {"nanosleep", do_sleep, 0},
    {"futex, limited", do_timed_futex, 0}, {"pause", do_pause, 0}, {"sigsuspend", do_suspend, 0},
    {"sigtimedwait", do_timedwait, 0}, {"msgrcv", do_msgrcv, 0}, {"semop", do_semop, 0},
    {"recv, limited", do_limited, 0},
};
enum { CALLS = sizeof calls / sizeof *calls };

// Waits until the waiter, the first thread, sleeps, as its state shows.
static void until_asleep(void) {
    char text[256];
    for (;;) {
        int fd = open("/proc/self/stat", O_RDONLY);
        long got = read(fd, text, sizeof text - 1);
        close(fd);
        text[got > 0 ? got : 0] = 0;
        char *end = strrchr(text, ')');
        if (waiting && end && end[2] == 'S') return;
        sched_yield();
    }
}

static int number;
static void *interrupt(void *arg) {
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        int before = handled;
        until_asleep();
        syscall(SYS_tgkill, getpid(), waiter, number);
        while (handled == before) sched_yield();
    }
    return 0;
}

// Each round ends with EINTR: the next begins when the helper sees the waiter asleep again.
static void plain(int index) {
    pthread_t helper;
    int bad = 0, others = 0;
    handled = 0;
    pthread_create(&helper, 0, interrupt, 0);
    for (int i = 0; i < ROUNDS; i++) {
        int before = handled;
        errno = 0;
        waiting = 1;
        long result = calls[index].call();
        int error = errno;
        waiting = 0;
        if (result != -1 || error != EINTR) bad++;
        if (handled != before + 1) others++;
    }
    pthread_join(helper, 0);
    printf("%-20s %d: %d not EINTR, %d without its signal\n", calls[index].name, number, bad, others);
    fflush(stdout);
}

static void *restart_all(void *arg) {
    interrupt(arg);
    until_asleep();
    (void)!write(empty[1], "x", 1);
    return 0;
}

// With SA_RESTART the read goes on through all signals, until there is a byte.
static void restarting(void) {
    pthread_t helper;
    char c;
    handled = 0;
    pthread_create(&helper, 0, restart_all, 0);
    waiting = 1;
    long result = read(empty[0], &c, 1);
    waiting = 0;
    pthread_join(helper, 0);
    printf("read that restarts   %d: %ld after %d signals\n", number, result, handled);
    fflush(stdout);
}

static void set_up(void) {
    struct sockaddr_un name = {AF_UNIX, {0}};
    struct epoll_event event = {EPOLLIN, {0}};
    struct timeval limit = {60, 0};
    if (pipe(empty) || pipe(full) || pipe(holder) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) exit(2);
    setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (void *)&name, sizeof(sa_family_t));
    listen(listener, 5);
    queue = msgget(IPC_PRIVATE, 0600);
    set = semget(IPC_PRIVATE, 1, 0600);
    epoll_fd = epoll_create1(0);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, empty[0], &event);
    fcntl(full[1], F_SETFL, O_NONBLOCK);
    while (write(full[1], "y", 1) == 1) {}
    fcntl(full[1], F_SETFL, 0);
    char path[] = "/tmp/ends-XXXXXX";
    int other = mkstemp(path);
    locked = open(path, O_RDWR);
    flock(other, LOCK_EX);
    child = fork();
    if (!child) {
        struct flock l = {F_WRLCK, SEEK_SET, 0, 1, 0};
        fcntl(other, F_SETLK, &l);
        (void)!write(holder[1], "x", 1);
        for (;;) pause();
    }
    take(holder[0]);
    unlink(path);
}

int main(void) {
    waiter = getpid();
    set_up();
    int numbers[] = {SIGURG, SIGRTMIN + 3};
    for (int i = 0; i < 2; i++) {
        struct sigaction action = {0};
        number = numbers[i];
        action.sa_handler = handler;
        sigaction(number, &action, 0);
        for (int k = 0; k < CALLS; k++) plain(k);
        action.sa_flags = SA_RESTART;
        sigaction(number, &action, 0);
        for (int k = 0; k < CALLS; k++) if (!calls[k].restarts) plain(k);
        restarting();
    }
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    msgctl(queue, IPC_RMID, 0);
    semctl(set, 0, IPC_RMID);
    return 0;
}
