// takes: what a program gets of another's descriptors by pidfd_getfd(2), and what both then do with them. A child, which is
// executed anew, opens; the parent takes. Prints what it meets. `takes here`: the kinds of objects that do not leave their node.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int to_child[2], to_parent[2];

static void fail(const char *what) {
    printf("%s: %s\n", what, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static void tell(int *to, int word) {
    if (write(to[1], &word, sizeof word) != sizeof word) fail("tell");
}

static int hear(int *from) {
    int word;
    if (read(from[0], &word, sizeof word) != sizeof word) fail("hear");
    return word;
}

static int take(int process, int number) {
    return (int)syscall(SYS_pidfd_getfd, process, number, 0);
}

static const char *name_of(long result) {
    return result < 0 ? strerrorname_np(errno) : "done";
}

// Runs the parent's side of a case: `uses` has the first descriptor whose number the child tells.
static void with(const char *what, void (*uses)(int fd, int process)) {
    printf("%s", what);
    fflush(stdout);
    if (pipe(to_child) || pipe(to_parent)) fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        char in[12], out[12];
        close(to_child[1]);
        close(to_parent[0]);
        sprintf(in, "%d", to_child[0]);
        sprintf(out, "%d", to_parent[1]);
        execl("/proc/self/exe", "takes", "child", what, in, out, (char *)0);
        fail("execl");
    }
    close(to_child[0]);
    close(to_parent[1]);
    int process = (int)syscall(SYS_pidfd_open, child, 0);
    int fd = take(process, hear(to_parent));
    printf(" %s", name_of(fd));
    if (fd >= 0) {
        printf(" cloexec %d", fcntl(fd, F_GETFD));
        uses(fd, process);
        close(fd);
    }
    close(to_child[1]);
    close(to_parent[0]);
    int status;
    waitpid(child, &status, 0);
    printf(" child %d, then %s\n", status, name_of(take(process, 0)));
    close(process);
}

static void show(int fd) {
    char bytes[8] = "";
    long got = read(fd, bytes, 3);
    printf(" read %s '%s'", name_of(got), bytes);
}

static void opens_file(void) {
    char bytes[4];
    int fd = open("takes.txt", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(fd, "abcdefghi", 9) != 9 || lseek(fd, 0, SEEK_SET) || read(fd, bytes, 3) != 3) fail("file");
    tell(to_parent, fd);
    hear(to_child);
    tell(to_parent, (int)lseek(fd, 0, SEEK_CUR));
}

static void uses_file(int fd, int process) {
    (void)process;
    show(fd);
    tell(to_child, 0);
    printf(" offset %d", hear(to_parent));
}

// The image that follows has the same file, wherever it runs.
static void opens_for_exec(void) {
    int fd = open("takes.txt", O_RDONLY);
    if (dup2(fd, 0) < 0) fail("dup2");
    tell(to_parent, fd);
    hear(to_child);
    execlp("dd", "dd", "bs=3", "count=1", "of=/dev/null", "status=none", (char *)0);
    fail("execlp");
}

static void uses_after_exec(int fd, int process) {
    (void)process;
    tell(to_child, 0);
    while (lseek(fd, 0, SEEK_CUR) == 0) usleep(1000);
    show(fd);
}

static void opens_pipe(void) {
    int ends[2];
    char bytes[8] = "";
    if (pipe(ends)) fail("pipe");
    tell(to_parent, ends[1]);
    hear(to_child);
    close(ends[1]);
    long got = read(ends[0], bytes, 3), end = read(ends[0], bytes + 3, 1);
    tell(to_parent, got == 3 && end == 0 && strcmp(bytes, "xyz") == 0);
}

static void uses_pipe(int fd, int process) {
    (void)process;
    tell(to_child, 0);
    printf(" write %s", name_of(write(fd, "xyz", 3)));
    close(fd);
    printf(" whole %d", hear(to_parent));
}

static void opens_pair(void) {
    int ends[2];
    char bytes[8] = "";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends)) fail("socketpair");
    tell(to_parent, ends[1]);
    long got = recv(ends[0], bytes, sizeof bytes, 0);
    send(ends[0], bytes, (size_t)got, 0);
    hear(to_child);
}

static void uses_pair(int fd, int process) {
    (void)process;
    printf(" send %s", name_of(send(fd, "123", 3, 0)));
    show(fd);
    tell(to_child, 0);
}

static void opens_listener(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, bytes) || listen(listener, 1)) fail("listen");
    getsockname(listener, (void *)&address, &bytes);
    tell(to_parent, listener);
    if (connect(client, (void *)&address, bytes) || write(client, "tcp", 3) != 3) fail("connect");
    hear(to_child);
}

static void uses_listener(int fd, int process) {
    (void)process;
    int client = accept(fd, 0, 0);
    printf(" accept %s", name_of(client));
    show(client);
    close(client);
    tell(to_child, 0);
}

static void opens_counter(void) {
    uint64_t count = 0;
    int fd = eventfd(0, 0);
    tell(to_parent, fd);
    if (read(fd, &count, 8) != 8) fail("eventfd");
    tell(to_parent, (int)count);
}

static void uses_counter(int fd, int process) {
    (void)process;
    uint64_t count = 5;
    printf(" write %s", name_of(write(fd, &count, 8)));
    printf(" count %d", hear(to_parent));
}

static void opens_memory(void) {
    int fd = memfd_create("m", 0);
    if (write(fd, "memory", 6) != 6) fail("memfd");
    tell(to_parent, fd);
    hear(to_child);
    tell(to_parent, (int)lseek(fd, 0, SEEK_END));
}

static void uses_memory(int fd, int process) {
    (void)process;
    printf(" more %s", name_of(write(fd, "+", 1)));
    tell(to_child, 0);
    printf(" bytes %d", hear(to_parent));
}

static void opens_null(void) {
    tell(to_parent, open("/dev/null", O_RDWR));
    hear(to_child);
}

static void uses_null(int fd, int process) {
    printf(" write %s", name_of(write(fd, "x", 1)));
    printf(" number %s", name_of(take(process, 777)));
    printf(" negative %s", name_of(take(process, -1)));
    printf(" flags %s", name_of(syscall(SYS_pidfd_getfd, process, 0, 1)));
    printf(" no process %s", name_of(take(fd, 0)));
    printf(" no descriptor %s", name_of(take(776, 0)));
    tell(to_child, 0);
}

// Kinds that do not leave their node.

static int timer_of_child, set_of_child;

static void opens_timer(void) {
    struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
    timer_of_child = timerfd_create(CLOCK_MONOTONIC, 0);
    timerfd_settime(timer_of_child, 0, &soon, 0);
    tell(to_parent, timer_of_child);
    hear(to_child);
}

static void uses_timer(int fd, int process) {
    (void)process;
    uint64_t count = 0;
    long got = read(fd, &count, 8);
    printf(" read %s %d", name_of(got), (int)count);
    tell(to_child, 0);
}

static void opens_set(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 42};
    set_of_child = epoll_create1(0);
    int counter = eventfd(1, 0);
    epoll_ctl(set_of_child, EPOLL_CTL_ADD, counter, &event);
    tell(to_parent, set_of_child);
    hear(to_child);
}

static void uses_set(int fd, int process) {
    (void)process;
    struct epoll_event event = {0};
    int count = epoll_wait(fd, &event, 1, -1);
    printf(" ready %d of %u", count, event.data.u32);
    tell(to_child, 0);
}

static void opens_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    tell(to_parent, signalfd(-1, &set, 0));
    hear(to_child);
}

// Signals of who reads.
static void uses_signals(int fd, int process) {
    (void)process;
    sigset_t set;
    struct signalfd_siginfo info = {0};
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    kill(getpid(), SIGUSR1);
    printf(" read %s", name_of(read(fd, &info, sizeof info)));
    printf(" signal %u code %d own %d", info.ssi_signo, info.ssi_code, info.ssi_pid == (unsigned)getpid());
    tell(to_child, 0);
}

static void opens_watch(void) {
    int fd = inotify_init1(0);
    inotify_add_watch(fd, ".", IN_CREATE);
    tell(to_parent, fd);
    hear(to_child);
}

static void uses_watch(int fd, int process) {
    (void)process;
    char bytes[512];
    unlink("watched");
    close(open("watched", O_CREAT, 0600));
    printf(" read %s", name_of(read(fd, bytes, sizeof bytes)));
    tell(to_child, 0);
}

static void opens_process(void) {
    tell(to_parent, (int)syscall(SYS_pidfd_open, getppid(), 0));
    hear(to_child);
}

static void uses_process(int fd, int process) {
    (void)process;
    printf(" signal %s", name_of(syscall(SYS_pidfd_send_signal, fd, 0, 0, 0)));
    printf(" own %s", name_of(take(fd, 0)));
    tell(to_child, 0);
}

// Who may: a process with these ids, and perhaps not dumpable, from one with those.
static void permission(const char *what, int its, int dumpable, int own) {
    fflush(stdout);
    pid_t all = fork();
    if (all == 0) {
        int ready[2], answer[2];
        if (pipe(ready) || pipe(answer)) fail("pipe");
        pid_t child = fork();
        if (child == 0) {
            char byte;
            close(answer[1]);
            if (its && (setresgid(its, its, its) || setresuid(its, its, its))) fail("setresuid");
            prctl(PR_SET_DUMPABLE, dumpable);
            if (write(ready[1], "r", 1) != 1) fail("write");
            _exit(read(answer[0], &byte, 1) != 0);
        }
        char byte;
        if (read(ready[0], &byte, 1) != 1) fail("read");
        if (own && (setresgid(own, own, own) || setresuid(own, own, own))) fail("setresuid");
        int process = (int)syscall(SYS_pidfd_open, child, 0);
        printf("%s %s\n", what, name_of(take(process, 1)));
        fflush(stdout);
        close(answer[1]);
        waitpid(child, 0, 0);
        _exit(0);
    }
    waitpid(all, 0, 0);
}

static const struct {
    const char *what;
    void (*opens)(void);
    void (*uses)(int fd, int process);
    int stays;
} cases[] = {
    {"file", opens_file, uses_file, 0},
    {"exec", opens_for_exec, uses_after_exec, 0},
    {"pipe", opens_pipe, uses_pipe, 0},
    {"pair", opens_pair, uses_pair, 0},
    {"listener", opens_listener, uses_listener, 0},
    {"counter", opens_counter, uses_counter, 0},
    {"memory", opens_memory, uses_memory, 0},
    {"null", opens_null, uses_null, 0},
    {"process", opens_process, uses_process, 0},
    {"timer", opens_timer, uses_timer, 1},
    {"set", opens_set, uses_set, 1},
    {"signals", opens_signals, uses_signals, 1},
    {"watch", opens_watch, uses_watch, 1},
};
enum { CASES = sizeof cases / sizeof cases[0] };

int main(int argc, char **argv) {
    int stay = argc > 1;
    if (argc == 5) {
        to_child[0] = atoi(argv[3]);
        to_parent[1] = atoi(argv[4]);
        for (int i = 0; i < CASES; i++) {
            if (strcmp(cases[i].what, argv[2]) == 0) cases[i].opens();
        }
        return 0;
    }
    for (int i = 0; i < CASES; i++) {
        if (cases[i].stays == stay) with(cases[i].what, cases[i].uses);
    }
    if (stay) return 0;
    permission("root of user", 1000, 1, 0);
    permission("user of root", 0, 1, 1000);
    permission("user of himself", 1000, 1, 1000);
    permission("user of another", 1001, 1, 1000);
    permission("user of what must not dump", 1000, 0, 1000);
    permission("root of what must not dump", 1000, 0, 0);
    return 0;
}
