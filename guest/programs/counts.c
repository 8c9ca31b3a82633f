// Calls that move many bytes, or wait for others: counts, contents, limits of sockets and terminals.
#define _GNU_SOURCE
#include "waits.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pty.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>

enum { MANY = 1 << 20 };
static unsigned char data[MANY], copy[MANY];
static int pipes[2], pair[2];

// Reads everything slowly, so that the writer waits again and again, and checks it.
struct reader { int fd; long bytes; int good; pthread_t thread; };
static void *read_slowly(void *arg) {
    struct reader *r = arg;
    unsigned char part[40000];
    long at = 0;
    r->good = 1;
    while (at < r->bytes) {
        long got = read(r->fd, part, sizeof part);
        if (got <= 0) break;
        for (long i = 0; i < got; i++) r->good &= part[i] == data[(at + i) % MANY];
        at += got;
        usleep(1500);
    }
    r->good &= at == r->bytes;
    return 0;
}
static void reads(struct reader *r, int fd, long bytes) {
    *r = (struct reader){fd, bytes, 0, 0};
    pthread_create(&r->thread, 0, read_slowly, r);
}
static void all_read(const char *what, struct reader *r, long result) {
    pthread_join(r->thread, 0);
    ended(what, result, r->bytes, 0);
    if (!r->good) say(what, 0);
}

static void *write_slowly(void *arg) {
    int fd = *(int *)arg;
    for (long at = 0; at < MANY; at += 8192) { (void)!write(fd, data + at, 8192); usleep(300); }
    return 0;
}

static void tcp(int fds[2]) {
    struct sockaddr_in name = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t bytes = sizeof name;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (void *)&name, sizeof name);
    getsockname(listener, (void *)&name, &bytes);
    listen(listener, 1);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    connect(fds[0], (void *)&name, sizeof name);
    fds[1] = accept(listener, 0, 0);
    close(listener);
}

static void writes(void) {
    struct reader r;
    struct iovec v[3] = {{data, 100}, {data + 100, 700000}, {data + 700100, MANY - 700100}};
    struct msghdr m = {0};
    m.msg_iov = v;
    m.msg_iovlen = 3;
    reads(&r, pipes[0], MANY); begin(); all_read("write to a pipe", &r, write(pipes[1], data, MANY));
    reads(&r, pipes[0], MANY); begin(); all_read("writev to a pipe", &r, writev(pipes[1], v, 3));
    reads(&r, pipes[0], MANY); begin(); all_read("pwritev2 to a pipe", &r, pwritev2(pipes[1], v, 3, -1, 0));
    int net[2];
    tcp(net);
    for (int kind = 0; kind < 2; kind++) {
        int *s = kind ? net : pair;
        reads(&r, s[1], MANY); begin(); all_read("write to a socket", &r, write(s[0], data, MANY));
        reads(&r, s[1], MANY); begin(); all_read("send", &r, send(s[0], data, MANY, 0));
        reads(&r, s[1], MANY); begin(); all_read("sendmsg", &r, sendmsg(s[0], &m, 0));
        struct mmsghdr two[2] = {{m, 0}, {m, 0}};
        reads(&r, s[1], 2 * MANY); begin();
        long sent = sendmmsg(s[0], two, 2, 0);
        all_read("sendmmsg", &r, sent == 2 ? (long)two[0].msg_len + two[1].msg_len : -1);
    }
    FILE *file = tmpfile();
    fwrite(data, 1, MANY, file);
    fflush(file);
    off_t at = 0;
    reads(&r, net[1], MANY); begin(); all_read("sendfile", &r, sendfile(net[0], fileno(file), &at, MANY));
    say("sendfile's offset", at == MANY);
    at = 0;
    begin(); say("sendfile to a pipe", sendfile(pipes[1], fileno(file), &at, MANY) == 65536 && at == 65536);
    (void)!read(pipes[0], copy, 65536);
    fclose(file);
    int master, slave;
    openpty(&master, &slave, 0, 0, 0);
    struct termios t;
    tcgetattr(slave, &t); cfmakeraw(&t); tcsetattr(slave, TCSANOW, &t);
    reads(&r, master, 65536); begin(); all_read("write to a terminal", &r, write(slave, data, 65536));
    t.c_cc[VMIN] = 0; t.c_cc[VTIME] = 3;
    tcsetattr(slave, TCSANOW, &t);
    begin(); ended("read with VTIME", read(slave, copy, 10), 0, 299);
    (void)!write(master, "abc", 3);
    begin(); ended("read with VTIME that finds", read(slave, copy, 10), 3, 0);
    close(master); close(slave); close(net[0]); close(net[1]);
}

static void whole(const char *what, long result) {
    ended(what, result, MANY, 0);
    if (memcmp(data, copy, MANY)) say(what, 0);
    memset(copy, 0, MANY);
}

static void receives(void) {
    int net[2];
    tcp(net);
    pthread_t writer;
    struct iovec v[2] = {{copy, 300000}, {copy + 300000, MANY - 300000}};
    for (int kind = 0; kind < 2; kind++) {
        int *s = kind ? net : pair;
        pthread_create(&writer, 0, write_slowly, &s[0]);
        begin(); whole("recv of all", recv(s[1], copy, MANY, MSG_WAITALL));
        pthread_join(writer, 0);
        char control[256];
        struct msghdr m = {0};
        m.msg_iov = v; m.msg_iovlen = 2; m.msg_control = control; m.msg_controllen = sizeof control;
        pthread_create(&writer, 0, write_slowly, &s[0]);
        begin(); whole("recvmsg of all", recvmsg(s[1], &m, MSG_WAITALL));
        pthread_join(writer, 0);
    }
    close(net[0]); close(net[1]);
    begin(); ended("getrandom", getrandom(copy, MANY, 0), MANY, 0);
    int fd = open("/dev/urandom", O_RDONLY);
    begin(); ended("read of /dev/urandom", read(fd, copy, MANY), MANY, 0);
    close(fd);
    fd = open("/dev/zero", O_RDONLY);
    char *room = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    begin(); ended("read of /dev/zero", read(fd, room, 64 << 20), 64 << 20, 0);
    munmap(room, 64 << 20);
    close(fd);
    fd = memfd_create("m", 0);
    begin(); ended("fallocate", fallocate(fd, 0, 0, 64 << 20), 0, 0);
    close(fd);
    int d[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, d);
    struct mmsghdr m[4];
    struct iovec parts[4];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 4; i++) { parts[i] = (struct iovec){copy + i, 1}; m[i].msg_hdr.msg_iov = parts + i; m[i].msg_hdr.msg_iovlen = 1; }
    void put(void *arg) { (void)!write(*(int *)arg, "x", 1); }
    begin();
    for (int i = 1; i <= 4; i++) later(20 * i, put, &d[0]);
    ended("recvmmsg", recvmmsg(d[1], m, 4, 0, 0), 4, 70);
    failed("recv after recvmmsg", recv(d[1], copy, 1, MSG_DONTWAIT), EAGAIN);
    close(d[0]); close(d[1]);
}

static void limits(void) {
    struct timeval span = {0, 90000};
    int s[2], net[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    tcp(net);
    setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &span, sizeof span);
    setsockopt(net[1], SOL_SOCKET, SO_RCVTIMEO, &span, sizeof span);
    setsockopt(net[0], SOL_SOCKET, SO_SNDTIMEO, &span, sizeof span);
    setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &span, sizeof span);
    char c;
    struct iovec v = {&c, 1};
    struct msghdr m = {0};
    m.msg_iov = &v; m.msg_iovlen = 1;
    begin(); fails("recv, limited", recv(s[1], &c, 1, 0), EAGAIN, 89);
    begin(); fails("read, limited", read(net[1], &c, 1), EAGAIN, 89);
    begin(); fails("readv, limited", readv(net[1], &v, 1), EAGAIN, 89);
    begin(); fails("recvmsg, limited", recvmsg(s[1], &m, 0), EAGAIN, 89);
    (void)!write(s[0], "ab", 2);
    begin(); ended("recv of all, limited", recv(s[1], copy, 10, MSG_WAITALL), 2, 89);
    begin();
    long sent = send(s[0], data, MANY, 0);
    say("send, limited", sent > 0 && sent < MANY && now_ms() - started >= 89);
    begin(); fails("send when full, limited", send(s[0], data, MANY, 0), EAGAIN, 89);
    begin(); sent = write(net[0], data, MANY);
    while (sent == MANY) { begin(); sent = write(net[0], data, MANY); }
    say("write, limited", sent > 0 && now_ms() - started >= 89);
    int d[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, d);
    setsockopt(d[0], SOL_SOCKET, SO_SNDTIMEO, &span, sizeof span);
    while (send(d[0], "x", 1, MSG_DONTWAIT) == 1) {}
    begin(); fails("send of a datagram, limited", send(d[0], "x", 1, 0), EAGAIN, 89);
    struct sockaddr_in name = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    int listener = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    bind(listener, (void *)&name, sizeof name);
    listen(listener, 1);
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &span, sizeof span);
    begin(); fails("accept, limited", accept(listener, 0, 0), EAGAIN, 89);
    bind(udp, (void *)&name, sizeof name);
    setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &span, sizeof span);
    begin(); fails("recvfrom, limited", recvfrom(udp, &c, 1, 0, 0, 0), EAGAIN, 89);
    close(listener); close(udp); close(s[0]); close(s[1]); close(net[0]); close(net[1]); close(d[0]); close(d[1]);
}

static int listener;
static void accept_one(void *arg) { (void)arg; close(accept(listener, 0, 0)); }
static struct sockaddr_un unix_name = {AF_UNIX, {0}};
static socklen_t unix_bytes = sizeof unix_name;
static void call_in(void *arg) {
    (void)arg;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    connect(fd, (void *)&unix_name, unix_bytes);
}

static void connections(void) {
    struct sockaddr_in name = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t bytes = sizeof name;
    int fds[8], waited = 0;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (void *)&name, sizeof name);
    getsockname(listener, (void *)&name, &bytes);
    listen(listener, 0);
    // The second or third connection waits for room; it comes with a retransmission after a second.
    for (int i = 0; i < 3; i++) later(300 + 300 * i, accept_one, 0);
    int good = 1;
    for (int i = 0; i < 3; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        begin();
        good &= connect(fds[i], (void *)&name, sizeof name) == 0;
        waited |= now_ms() - started > 100;
    }
    say("connect over TCP", good);
    say("connect has waited", waited);
    close(listener);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (void *)&unix_name, sizeof(sa_family_t));
    getsockname(listener, (void *)&unix_name, &unix_bytes);
    listen(listener, 0);
    begin(); later(40, call_in, 0);
    good = accept(listener, 0, 0); say("accept", good >= 0 && now_ms() - started > 30);
    call_in(0);
    begin(); later(40, accept_one, 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ended("connect by name", connect(fd, (void *)&unix_name, unix_bytes), 0, 30);
    close(listener);
}

static void release(void *arg) { close(*(int *)arg); }
static void open_writer(void *arg) { close(open(arg, O_WRONLY)); }

static void locks_and_files(void) {
    char path[] = "/tmp/waits-XXXXXX", fifo[64];
    int a = mkstemp(path), b = open(path, O_RDWR), c = open(path, O_RDWR);
    unlink(path);
    flock(a, LOCK_EX);
    begin(); later(40, release, &a);
    ended("flock", flock(b, LOCK_EX), 0, 30);
    struct flock l = {F_WRLCK, SEEK_SET, 0, 1, 0};
    fcntl(b, F_OFD_SETLK, &l);
    begin(); later(40, release, &b);
    ended("F_OFD_SETLKW", fcntl(c, F_OFD_SETLKW, &l), 0, 30);
    int go[2];
    (void)!pipe(go);
    struct flock p = {F_WRLCK, SEEK_SET, 5, 1, 0};
    begin();
    pid_t child = fork();
    if (!child) { fcntl(c, F_SETLK, &p); (void)!write(go[1], "x", 1); usleep(40000); _exit(3); }
    take(go[0]);
    ended("F_SETLKW", fcntl(c, F_SETLKW, &p), 0, 20);
    int status;
    ended("waitpid", waitpid(child, &status, 0), child, 0);
    say("its status", WIFEXITED(status) && WEXITSTATUS(status) == 3);
    begin();
    child = fork();
    if (!child) { usleep(50000); _exit(4); }
    siginfo_t info;
    ended("waitid", waitid(P_PID, child, &info, WEXITED), 0, 30);
    snprintf(fifo, sizeof fifo, "%s.fifo", path);
    mkfifo(fifo, 0600);
    begin(); later(40, open_writer, fifo);
   
    int fd = open(fifo, O_RDONLY);
    say("open of a FIFO", fd >= 0 && now_ms() - started > 30);
    unlink(fifo);
}

static void put8(void *arg) { uint64_t one = 1; (void)!write(*(int *)arg, &one, 8); }
static void raise_usr2(void *arg) { kill(getpid(), SIGUSR2); (void)arg; }
static void make_file(void *arg) { close(open(arg, O_CREAT | O_WRONLY, 0600)); }

static void notifications(void) {
    uint64_t value;
    int fd = eventfd(0, 0);
    begin(); later(40, put8, &fd);
    ended("read of an eventfd", read(fd, &value, 8), 8, 30);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec in = {{0, 0}, {0, 60000000}};
    begin(); timerfd_settime(timer, 0, &in, 0);
    ended("read of a timerfd", read(timer, &value, 8), 8, 60);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, 0);
    int signals = signalfd(-1, &set, 0);
    struct signalfd_siginfo info;
    begin(); later(40, raise_usr2, 0);
    ended("read of a signalfd", read(signals, &info, sizeof info), sizeof info, 30);
    char folder[] = "/tmp/waits-XXXXXX", file[64], event[4096];
    (void)!mkdtemp(folder);
    snprintf(file, sizeof file, "%s/f", folder);
    int notify = inotify_init();
    inotify_add_watch(notify, folder, IN_CREATE);
    begin(); later(40, make_file, file);
    say("read of an inotify", read(notify, event, sizeof event) > 0 && now_ms() - started > 30);
    unlink(file);
    rmdir(folder);
}

int main(void) {
    for (long i = 0; i < MANY; i++) data[i] = i * 7 + (i >> 8) * 13;
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 2;
    writes();
    receives();
    limits();
    connections();
    locks_and_files();
    notifications();
    return 0;
}
