// Bytes to and from others: through a child by pipe and socket pair, over TCP, from short-lived
// children; and objects of the kernel that count or watch.
#include "witness.h"
#include <netinet/in.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

struct check streams, sockets, children, objects;

static uint8_t byte_at(uint64_t position) { uint64_t state = position / 8; return next_random(&state) >> position % 8 * 8; }

static void expect(struct check *check, const char *what, const uint8_t *bytes, ssize_t length, uint64_t position) {
    for (ssize_t i = 0; i < length; i++)
        if (bytes[i] != byte_at(position + i)) return fail(check, "%s: byte %lu is wrong", what, (long)(position + i));
}

enum { BLOCK_MAX = 150000, MESSAGE = 1000 };
static int to_child[2], from_child[2];
static pid_t child;
static pthread_t writer, reader;
static volatile bool skip;
static volatile uint64_t sent;

// The child: passes on what it reads, as it comes, and checks it.
static void echo(pid_t parent) {
    static uint8_t buffer[40000];
    uint64_t position = 0;
    ssize_t length;
    while ((length = read(to_child[0], buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < length; i++)
            if (buffer[i] != byte_at(position + i)) _exit(3);
        position += length;
        if (write(from_child[1], buffer, length) != length) _exit(4);
        if (getppid() != parent) _exit(5);
    }
    _exit(length ? 6 : 0);
}

static void *writes(void *unused) {
    (void)unused;
    static uint8_t block[BLOCK_MAX];
    uint64_t random = 3, position = 0;
    while (!stopping) {
        ssize_t length = 1 + next_random(&random) % (next_random(&random) % 4 ? 5000 : BLOCK_MAX);
        if (skip) position++, skip = false;
        for (ssize_t i = 0; i < length; i++) block[i] = byte_at(position + i);
        ssize_t done = write(to_child[1], block, length);
        if (done != length) fail(&streams, "wrote %zd of %zd: %s", done, length, strerror(errno));
        position += length, sent += length;
        sleep_ms(2);
    }
    close(to_child[1]);
    return 0;
}

static void *reads(void *unused) {
    (void)unused;
    static uint8_t message[MESSAGE];
    uint64_t position = 0;
    ssize_t length;
    while ((length = recv(from_child[0], message, MESSAGE, MSG_WAITALL)) == MESSAGE) {
        expect(&streams, "echo", message, length, position);
        position += length;
    }
    // Less than asked for comes only at the end.
    if (length < 0) return fail(&streams, "recv: %s", strerror(errno)), NULL;
    expect(&streams, "echo", message, length, position);
    position += length;
    uint8_t more;
    if (recv(from_child[0], &more, 1, 0) != 0) fail(&streams, "bytes after the end");
    if (position != sent) fail(&streams, "%lu of %lu bytes came back", (long)position, (long)sent);
    return 0;
}

static void streams_start(void) {
    pid_t parent = getpid();
    need(pipe2(to_child, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, from_child) == 0, "streams");
    child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        // What it does not need it does not hold: it would bind its parent's files to this node.
        for (int fd = 0; fd < 256; fd++)
            if (fd != to_child[0] && fd != from_child[1]) close(fd);
        echo(parent);
    }
    close(to_child[0]);
    close(from_child[1]);
    writer = begin(writes, 0);
    reader = begin(reads, 0);
}

static void streams_finish(void) {
    int status = -1;
    pthread_join(writer, 0);
    pthread_join(reader, 0);
    if (waitpid(child, &status, 0) != child || status) fail(&streams, "the child ended with %x", status);
}

static void streams_inject(void) { skip = true; }

struct check streams = {"streams", streams_start, 0, streams_finish, streams_inject, ""};

static int listener;
static struct sockaddr_in address;
static pthread_t server, client;
static volatile bool cut;

// Answers until a connection brings nothing. It may not end by `stopping`: the client could have
// sent its next message to it already, and would wait for ever.
static void *serves(void *unused) {
    (void)unused;
    uint8_t message[MESSAGE];
    for (bool asked = true; asked;) {
        int connection = accept4(listener, 0, 0, SOCK_CLOEXEC);
        if (connection < 0) return fail(&sockets, "accept: %s", strerror(errno)), NULL;
        ssize_t length;
        for (asked = false; (length = read(connection, message, MESSAGE)) > 0; asked = true)
            if (send(connection, message, length, 0) != length) fail(&sockets, "send: %s", strerror(errno));
        if (length < 0) fail(&sockets, "read: %s", strerror(errno));
        close(connection);
    }
    return 0;
}

static void *calls(void *unused) {
    (void)unused;
    uint8_t message[MESSAGE], answer[MESSAGE];
    while (!ticks) sleep_ms(1); // the descriptors of the start are counted first
    for (bool more = true; more;) {
        int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        more = !stopping;
        if (connect(connection, (struct sockaddr *)&address, sizeof address))
            return fail(&sockets, "connect: %s", strerror(errno)), NULL;
        for (int i = 0; i < 40 && !stopping; i++) {
            for (int k = 0; k < MESSAGE; k++) message[k] = byte_at(i * MESSAGE + k);
            ssize_t length = write(connection, message, MESSAGE - cut);
            if (length != MESSAGE - cut) fail(&sockets, "write: %zd, %s", length, strerror(errno));
            if (cut) shutdown(connection, SHUT_WR);
            length = recv(connection, answer, MESSAGE, MSG_WAITALL);
            if (length != MESSAGE) fail(&sockets, "recv: %zd, %s", length, strerror(errno));
            expect(&sockets, "answer", answer, length, i * MESSAGE);
            if (cut) break;
            sleep_ms(1);
        }
        close(connection);
    }
    return 0;
}

static void sockets_start(void) {
    socklen_t length = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(listener >= 0 && bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 4) == 0, "listen");
    need(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
    server = begin(serves, 0);
    client = begin(calls, 0);
}

static void sockets_finish(void) {
    pthread_join(client, 0);
    // Brings nothing, should the client's last one have brought something, or have failed.
    int last = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(connect(last, (struct sockaddr *)&address, sizeof address) == 0, "the last connection");
    close(last);
    pthread_join(server, 0);
}

static void sockets_inject(void) { cut = true; }

struct check sockets = {"sockets", sockets_start, 0, sockets_finish, sockets_inject, ""};

static pthread_t nurse;
static volatile bool steal;

// A child that says a number and ends with it.
static void one_child(int number) {
    int pipe_ends[2], status = -1;
    char digits[8], said[16] = "";
    posix_spawn_file_actions_t actions;
    snprintf(digits, sizeof digits, "%d", number);
    need(pipe2(pipe_ends, O_CLOEXEC) == 0, "pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], 1);
    char *words[] = {"sh", "-c", "echo $0; exit $0", digits, 0}, *environment[] = {"PATH=/usr/bin:/bin", 0};
    pid_t pid;
    int error = posix_spawn(&pid, "/bin/sh", &actions, 0, words, environment);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[1]);
    if (error) return close(pipe_ends[0]), fail(&children, "posix_spawn: %s", strerror(error));
    size_t length = 0;
    for (ssize_t got; (got = read(pipe_ends[0], said + length, sizeof said - 1 - length)) > 0;) length += got;
    close(pipe_ends[0]);
    if (steal) waitpid(pid, 0, 0);
    if (atoi(said) != number) fail(&children, "child %d said %s", number, said);
    if (waitpid(pid, &status, 0) != pid) fail(&children, "wait: %s", strerror(errno));
    else if (!WIFEXITED(status) || WEXITSTATUS(status) != number) fail(&children, "child %d ended with %x", number, status);
}

static void *raises(void *unused) {
    (void)unused;
    while (!ticks) sleep_ms(1);
    for (int number = 1; !stopping; number = number % 100 + 1) {
        one_child(number);
        sleep_ms(30);
    }
    return 0;
}

static void children_start(void) { nurse = begin(raises, 0); }
static void children_finish(void) { pthread_join(nurse, 0); }
static void children_inject(void) { steal = true; }

struct check children = {"children", children_start, 0, children_finish, children_inject, ""};

enum { TICK_MS = 5 };
static int counter, alarm_clock, set, file, taker, rest[2];
static uint64_t added, expired;
static int64_t wound_at;

static void objects_start(void) {
    struct itimerspec period = {{0, TICK_MS * 1000000}, {0, TICK_MS * 1000000}};
    struct epoll_event of_counter = {EPOLLIN, {.u64 = 0xc0ffee}}, of_rest = {EPOLLIN, {.u64 = 2}};
    sigset_t taken;
    sigemptyset(&taken);
    sigaddset(&taken, SIGRTMIN + 5);
    counter = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    alarm_clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    set = epoll_create1(EPOLL_CLOEXEC);
    file = memfd_create("witness", MFD_CLOEXEC);
    taker = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    need(counter >= 0 && alarm_clock >= 0 && set >= 0 && file >= 0 && taker >= 0 && pipe2(rest, O_CLOEXEC) == 0, "objects");
    need(epoll_ctl(set, EPOLL_CTL_ADD, counter, &of_counter) == 0 && epoll_ctl(set, EPOLL_CTL_ADD, rest[0], &of_rest) == 0, "epoll");
    wound_at = now_ns(CLOCK_MONOTONIC);
    need(timerfd_settime(alarm_clock, 0, &period, 0) == 0, "timerfd");
}

static void look_at_counter(void) {
    struct epoll_event events[2];
    int ready = epoll_wait(set, events, 2, 0);
    if (ready != (added > 0)) fail(&objects, "%d descriptors ready, the counter is %lu", ready, (long)added);
    else if (ready && events[0].data.u64 != 0xc0ffee) fail(&objects, "epoll says %lx", (long)events[0].data.u64);
    uint64_t value;
    if (ticks % 16 == 15) {
        if (read(counter, &value, 8) != 8 || value != added) fail(&objects, "the counter is not %lu", (long)added);
        added = 0;
    } else {
        value = 1 + ticks % 3;
        if (write(counter, &value, 8) != 8) fail(&objects, "eventfd: %s", strerror(errno));
        added += value;
    }
}

static void look_at_clock(bool last) {
    uint64_t value = 0;
    int64_t before = (now_ns(CLOCK_MONOTONIC) - wound_at) / (TICK_MS * 1000000);
    if (read(alarm_clock, &value, 8) != 8 && errno != EAGAIN) fail(&objects, "timerfd: %s", strerror(errno));
    expired += value;
    int64_t after = (now_ns(CLOCK_MONOTONIC) - wound_at) / (TICK_MS * 1000000);
    if ((int64_t)expired > after) fail(&objects, "the timer expired %lu times, not %ld", (long)expired, (long)after);
    // What is due has expired but for one, whose interrupt may be on its way.
    if (last && (int64_t)expired < before - 1) fail(&objects, "the timer expired %lu times, not %ld", (long)expired, (long)before);
}

static void objects_tick(void) {
    struct signalfd_siginfo info = {0};
    look_at_counter();
    look_at_clock(ticks % 50 == 49);
    if (pwrite(file, &ticks, sizeof ticks, 8 * ticks) != sizeof ticks) fail(&objects, "memfd: %s", strerror(errno));
    unsigned half = ticks / 2, found = 0;
    if (pread(file, &found, sizeof found, 8 * half) != sizeof found || found != half) fail(&objects, "memfd: %u is %u", half, found);
    sigqueue(getpid(), SIGRTMIN + 5, (union sigval){.sival_int = (int)ticks});
    ssize_t length = read(taker, &info, sizeof info);
    if (length != sizeof info || info.ssi_int != (int)ticks || info.ssi_pid != (uint32_t)getpid())
        fail(&objects, "signalfd: %zd (%s), signal %d of %u, not %u", length, strerror(errno), info.ssi_int, info.ssi_pid, ticks);
}

static void objects_inject(void) { uint64_t one = 1; (void)!write(counter, &one, 8); }

struct check objects = {"objects", objects_start, objects_tick, 0, objects_inject, ""};
