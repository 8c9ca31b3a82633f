// Hot calls in a tight loop on several threads: each has the result that it has when nothing disturbs it. Signals
// that are not the program's own (those that move a process) must not end one of them early.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 3 };
static double seconds;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
static void want(const char *what, long got, long wanted) {
    if (got == wanted) return;
    printf("FAILED: %s: %ld, not %ld (errno %d)\n", what, got, wanted, errno);
    fflush(stdout);
    _exit(1);
}

struct objects {
    int empty[2], full[2], set, zero, folder, sink;
};

static void make(struct objects *o) {
    struct epoll_event event = {EPOLLIN, {0}};
    want("pipe", pipe(o->empty) | pipe(o->full), 0);
    want("byte", write(o->full[1], "x", 1), 1);
    want("set", (o->set = epoll_create1(0)) >= 0, 1);
    want("added", epoll_ctl(o->set, EPOLL_CTL_ADD, o->empty[0], &event), 0);
    want("zero", (o->zero = open("/dev/zero", O_RDONLY)) >= 0, 1);
    want("sink", (o->sink = open("/dev/null", O_WRONLY)) >= 0, 1);
    want("folder", (o->folder = open("/", O_RDONLY | O_DIRECTORY)) >= 0, 1);
}

// Each span ends when it is over, however often the wait was cut.
static void spans(struct objects *o) {
    struct pollfd none = {o->empty[0], POLLIN, 0}, one = {o->full[0], POLLIN, 0};
    struct epoll_event event;
    struct timespec span = {0, 20000000};
    double start = now();
    want("poll, a span", poll(&none, 1, 20), 0);
    want("epoll, a span", epoll_wait(o->set, &event, 1, 20), 0);
    want("ppoll, a span", syscall(SYS_ppoll, &none, 1, &span, 0, 8), 0);
    double took = now() - start;
    want("what is left", span.tv_sec == 0 && span.tv_nsec == 0, 1);
    want("three spans", took >= 0.06 && took < 2, 1);
    span = (struct timespec){5, 0};
    want("ppoll, ready", syscall(SYS_ppoll, &one, 1, &span, 0, 8), 1);
    want("its rest", span.tv_sec >= 4, 1);
}

static void waits(struct objects *o) {
    struct pollfd none = {o->empty[0], POLLIN, 0}, one = {o->full[0], POLLIN, 0};
    struct epoll_event event;
    want("poll, at once", poll(&none, 1, 0), 0);
    want("poll, ready", poll(&one, 1, 1000), 1);
    want("poll, a while", poll(&none, 1, 1), 0);
    want("epoll, at once", epoll_wait(o->set, &event, 1, 0), 0);
    want("epoll, a while", epoll_wait(o->set, &event, 1, 1), 0);
    event = (struct epoll_event){EPOLLIN, {0}};
    want("add", epoll_ctl(o->set, EPOLL_CTL_ADD, o->full[0], &event), 0);
    want("added twice", epoll_ctl(o->set, EPOLL_CTL_ADD, o->full[0], &event), -1);
    want("its errno", errno, EEXIST);
    want("epoll, ready", epoll_wait(o->set, &event, 1, 1000), 1);
    want("take out", epoll_ctl(o->set, EPOLL_CTL_DEL, o->full[0], 0), 0);
}

static void files(struct objects *o) {
    struct stat status;
    sigset_t set, old;
    char bytes[16], more[4096];
    struct iovec parts[2] = {{bytes, 3}, {bytes + 3, 4}};
    int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    want("open", fd >= 0, 1);
    want("fstat", fstat(fd, &status), 0);
    want("read", read(fd, bytes, 4), 4);
    want("lseek", lseek(fd, 2, SEEK_SET), 2);
    int copy = dup(fd);
    want("dup", copy >= 0 && copy != fd, 1);
    want("its offset", lseek(copy, 0, SEEK_CUR), 2);
    off_t from = 1;
    want("sendfile", sendfile(o->sink, fd, &from, 5), 5);
    want("its end", from, 6);
    want("close", close(copy) | close(fd), 0);
    want("no path", open("/no/such/file", O_RDONLY), -1);
    want("its errno", errno, ENOENT);
    want("stat", stat("/etc", &status) | lstat("/etc", &status) | access("/etc", R_OK), 0);
    want("readv", readv(o->zero, parts, 2), 7);
    want("start", lseek(o->folder, 0, SEEK_SET), 0);
    want("entries", syscall(SYS_getdents64, o->folder, more, sizeof more) > 0, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    want("block", pthread_sigmask(SIG_BLOCK, &set, &old), 0);
    want("was open", sigismember(&old, SIGUSR2), 0);
    want("unblock", pthread_sigmask(SIG_UNBLOCK, &set, &old), 0);
    want("was blocked", sigismember(&old, SIGUSR2), 1);
    want("action", syscall(SYS_rt_sigaction, SIGUSR2, 0, more, 8), 0);
}

static void *loop(void *unused) {
    (void)unused;
    struct objects o;
    make(&o);
    for (double end = now() + seconds; now() < end;) {
        waits(&o);
        for (int i = 0; i < 20; i++) files(&o);
        spans(&o);
    }
    return 0;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    seconds = argc > 1 ? atof(argv[1]) : 2;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, loop, 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
    printf("hot ok\n");
    return 0;
}
