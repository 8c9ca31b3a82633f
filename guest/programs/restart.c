// Prints, for each waiting call and with and without SA_RESTART, how it ends when a handler runs
// (signal(7)). The second signal lets a call end that began anew.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int signals;
static int pipe_fds[2], full_fds[2], pair[2], listener, queue, semaphore, epoll_fd;
static volatile int *word;
static pid_t child;
static void (*unblock)(void);

static void handler(int signal) {
    (void)signal;
    if (++signals == 2 && unblock) unblock();
}

static void arm(void) {
    struct itimerval timer = {{0, 150000}, {0, 80000}};
    signals = 0;
    setitimer(ITIMER_REAL, &timer, 0);
}

static void disarm(void) {
    struct itimerval timer = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &timer, 0);
}

static void put_byte(void) { (void)!write(pipe_fds[1], "x", 1); }
static void put_pair(void) { (void)!write(pair[1], "x", 1); }
static void wake_word(void) { *word = 1; syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0); }
static void end_child(void) { kill(child, SIGKILL); }
static void drain(void) { static char buffer[1 << 20]; (void)!read(full_fds[0], buffer, sizeof buffer); }
static void send_message(void) { struct { long kind; char text; } m = {1, 'x'}; msgsnd(queue, &m, 1, 0); }
static void raise_semaphore(void) { struct sembuf op = {0, 1, 0}; semop(semaphore, &op, 1); }
static void call_in(void) {
    struct sockaddr_un name; socklen_t bytes = sizeof name;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    getsockname(listener, (struct sockaddr *)&name, &bytes);
    connect(fd, (struct sockaddr *)&name, bytes);
}

static long do_read(void) { char c; return read(pipe_fds[0], &c, 1); }
static long do_recv(void) { char c; return recv(pair[0], &c, 1, 0); }
static long do_recvmsg(void) { char c; struct iovec v = {&c, 1}; struct msghdr m = {0}; m.msg_iov = &v; m.msg_iovlen = 1; return recvmsg(pair[0], &m, 0); }
static long do_accept(void) { int fd = accept(listener, 0, 0); if (fd >= 0) { close(fd); return 0; } return fd; }
static long do_write(void) { return write(full_fds[1], "xyzw", 4); }
static long do_poll(void) { struct pollfd p = {pipe_fds[0], POLLIN, 0}; return poll(&p, 1, 900); }
static long do_ppoll(void) { struct pollfd p = {pipe_fds[0], POLLIN, 0}; struct timespec t = {0, 900000000}; return ppoll(&p, 1, &t, 0); }
static long do_ppoll_mask(void) { struct pollfd p = {pipe_fds[0], POLLIN, 0}; struct timespec t = {0, 900000000}; sigset_t none; sigemptyset(&none); return ppoll(&p, 1, &t, &none); }
static long do_select(void) { fd_set s; FD_ZERO(&s); FD_SET(pipe_fds[0], &s); struct timeval t = {0, 900000}; return select(pipe_fds[0] + 1, &s, 0, 0, &t); }
static long do_pselect(void) { fd_set s; FD_ZERO(&s); FD_SET(pipe_fds[0], &s); struct timespec t = {0, 900000000}; sigset_t none; sigemptyset(&none); return pselect(pipe_fds[0] + 1, &s, 0, 0, &t, &none); }
static long do_epoll(void) { struct epoll_event e; return epoll_wait(epoll_fd, &e, 1, 900); }
static long do_epoll_pwait(void) { struct epoll_event e; sigset_t none; sigemptyset(&none); return epoll_pwait(epoll_fd, &e, 1, 900, &none); }
static long do_nanosleep(void) { struct timespec t = {0, 900000000}, left; long r = nanosleep(&t, &left); return r ? r : 0; }
static long do_clock_nanosleep(void) { struct timespec t = {0, 900000000}; int r = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0); errno = r; return r ? -1 : 0; }
static long do_futex(void) { return syscall(SYS_futex, word, FUTEX_WAIT, 0, 0, 0, 0); }
static long do_futex_timed(void) { struct timespec t = {0, 900000000}; return syscall(SYS_futex, word, FUTEX_WAIT, 0, &t, 0, 0); }
static long do_wait4(void) { return wait4(child, 0, 0, 0) == child ? 0 : -1; }
static long do_waitid(void) { siginfo_t info; return waitid(P_PID, child, &info, WEXITED); }
static long do_pause(void) { return pause(); }
static long do_sigsuspend(void) { sigset_t none; sigemptyset(&none); return sigsuspend(&none); }
static long do_sigtimedwait(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR2); struct timespec t = {0, 900000000}; return sigtimedwait(&set, 0, &t); }
static long do_msgrcv(void) { struct { long kind; char text; } m; return msgrcv(queue, &m, 1, 0, 0); }
static long do_semop(void) { struct sembuf op = {0, -1, 0}; return semop(semaphore, &op, 1); }

static struct { const char *name; long (*call)(void); void (*unblock)(void); int fork; } calls[] = {
    {"read", do_read, put_byte, 0}, {"recv", do_recv, put_pair, 0}, {"recvmsg", do_recvmsg, put_pair, 0},
    {"accept", do_accept, call_in, 0}, {"write", do_write, drain, 0}, {"poll", do_poll, put_byte, 0},
    {"ppoll", do_ppoll, put_byte, 0}, {"ppoll-mask", do_ppoll_mask, put_byte, 0},
    {"select", do_select, put_byte, 0}, {"pselect", do_pselect, put_byte, 0},
    {"epoll_wait", do_epoll, put_byte, 0}, {"epoll_pwait", do_epoll_pwait, put_byte, 0},
    {"nanosleep", do_nanosleep, 0, 0}, {"clock_nanosleep", do_clock_nanosleep, 0, 0},
    {"futex", do_futex, wake_word, 0}, {"futex-timed", do_futex_timed, wake_word, 0},
    {"wait4", do_wait4, end_child, 1}, {"waitid", do_waitid, end_child, 1},
    {"pause", do_pause, 0, 0}, {"sigsuspend", do_sigsuspend, 0, 0}, {"sigtimedwait", do_sigtimedwait, 0, 0},
    {"msgrcv", do_msgrcv, send_message, 0}, {"semop", do_semop, raise_semaphore, 0},
};

static void set_up(void) {
    struct sockaddr_un name = {AF_UNIX, {0}};
    struct epoll_event event = {EPOLLIN, {0}};
    if (pipe(pipe_fds) || pipe(full_fds) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) exit(2);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t));
    listen(listener, 5);
    word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    queue = msgget(IPC_PRIVATE, 0600);
    semaphore = semget(IPC_PRIVATE, 1, 0600);
    epoll_fd = epoll_create1(0);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pipe_fds[0], &event);
    fcntl(full_fds[1], F_SETFL, O_NONBLOCK);
    while (write(full_fds[1], "y", 1) == 1) {}
    fcntl(full_fds[1], F_SETFL, 0);
}

int main(void) {
    set_up();
    for (int restart = 0; restart < 2; restart++) {
        struct sigaction action = {0};
        action.sa_handler = handler;
        action.sa_flags = restart ? SA_RESTART : 0;
        sigaction(SIGALRM, &action, 0);
        for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
            *word = 0;
            unblock = calls[i].unblock;
            if (calls[i].fork && (child = fork()) == 0) { for (;;) pause(); }
            arm();
            errno = 0;
            long result = calls[i].call();
            int error = errno;
            int seen = signals;
            disarm();
            if (calls[i].fork) { kill(child, SIGKILL); waitpid(child, 0, 0); }
            fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
            char c;
            while (read(pipe_fds[0], &c, 1) == 1) {}
            fcntl(pipe_fds[0], F_SETFL, 0);
            if (calls[i].call == do_write) {
                fcntl(full_fds[1], F_SETFL, O_NONBLOCK);
                while (write(full_fds[1], "y", 1) == 1) {}
                fcntl(full_fds[1], F_SETFL, 0);
            }
            // A call that began anew ends by the second signal's doing, so its result tells it.
            printf("%-16s %s: result %ld %s%s\n", calls[i].name, restart ? "restart" : "plain  ", result,
                   result < 0 ? strerror(error) : "", seen ? "" : ", no signal");
        }
    }
    msgctl(queue, IPC_RMID, 0);
    semctl(semaphore, 0, IPC_RMID);
    return 0;
}
