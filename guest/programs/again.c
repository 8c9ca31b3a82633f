/* What a descriptor was is nothing of the next one with its number: bytes stay as they are, files stay unwatchable. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether records of signals, of any code that could mean something, come out of a pipe as they went in. */
static const char *bytes_stay(int from, int to) {
    for (int code = -0x4800; code < 0x100; code++) {
        struct signalfd_siginfo in, out;
        memset(&in, 7, sizeof in);
        in.ssi_code = code;
        if (write(to, &in, sizeof in) != sizeof in || read(from, &out, sizeof out) != sizeof out) return "short";
        if (memcmp(&in, &out, sizeof in)) return "changed";
    }
    return "the same";
}

static int signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    return signalfd(-1, &set, 0);
}

/* Puts a pipe's reading end at the number of a signalfd. */
static void pipe_at(int fd, int how) {
    int ends[2];
    if (pipe(ends)) return;
    if (how == 0 && ends[0] != fd) puts("not the number");
    if (how == 1) dup2(ends[0], fd);
    printf("%s\n", bytes_stay(fd, ends[1]));
    close(ends[0]);
    close(ends[1]);
}

static const char *watch(int set, int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) ? strerror(errno) : "watched";
}

int main(void) {
    for (int round = 0; round < 20; round++) {
        int fd = signals(), copy = dup(fd);
        raise(SIGUSR1);
        struct signalfd_siginfo info;
        read(copy, &info, sizeof info);
        if (round == 19) printf("a copy tells of %d by %d, %d\n", info.ssi_signo, info.ssi_pid == getpid(), info.ssi_code);
        close(copy);
        close(fd);
        if (round == 19) pipe_at(fd, 0);
        fd = signals();
        if (round == 19) pipe_at(fd, 1);
        close(fd);
        int set = epoll_create1(0), pair[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        const char *first = watch(set, pair[0]);
        struct epoll_event event;
        epoll_ctl(set, EPOLL_CTL_DEL, pair[0], &event);
        const char *second = watch(set, pair[0]);
        close(pair[0]);
        int file = open("file", O_RDWR | O_CREAT, 0600);
        const char *third = watch(set, file);
        int other = dup2(file, pair[1]);
        const char *fourth = watch(set, other);
        if (round == 19) printf("%d %s, %s, %s, %s\n", file == pair[0], first, second, third, fourth);
        close(file);
        close(other);
        close(set);
    }
    return 0;
}
