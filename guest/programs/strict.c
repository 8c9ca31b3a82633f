// strict: seccomp(2)'s strict mode, as natively: four calls are left, any other is the thread's end by SIGKILL, and the
// process's if it is the only one. Also what filters do that want a listener or a tracer and have none.
// `strict wait`: says its PID, enters strict mode, and answers each line of input with a line; a line "end" makes it
// call something else. `strict thread`: a thread that is not the first has a filter; says its PID and waits for the end of
// input.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t signals;
static int pipes[2];

static void on_signal(int number) { (void)number, signals++; }
static void say(const char *what) { (void)!write(1, what, strlen(what)); }
static void leave(int status) { for (;;) syscall(SYS_exit, status); }

static void enter(void) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) say("not strict\n"), leave(9);
}

// Reads and writes, also of a pipe that is full and empty in turn, and returns from a handler.
static void left(void) {
    char bytes[100];
    enter();
    for (int i = 0; i < 300; i++)
        if (write(pipes[1], bytes, sizeof bytes) != sizeof bytes || read(pipes[0], bytes, sizeof bytes) != sizeof bytes)
            say("short\n");
    for (int i = 0; i < 3; i++) (void)!write(-1, bytes, 1);
    // A fault's handler needs no call.
    say("left\n");
    leave(4);
}

static void handled(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, 0);
    enter();
    while (signals < 3) {
        char byte;
        if (read(pipes[0], &byte, 1) >= 0) say("read?\n");
    }
    say("handled\n");
    leave(5);
}

static void opens(void) { enter(), say("in\n"), (void)!syscall(SYS_getppid), say("no\n"), leave(1); }
static void native(void) { enter(), (void)!syscall(SYS_brk, 0), say("no\n"), leave(1); }
static void unknown(void) { enter(), (void)!syscall(9999), say("no\n"), leave(1); }
static void group(void) { enter(), syscall(SYS_exit_group, 0), say("no\n"), leave(1); }
static void sleeps(void) { enter(), pause(), say("no\n"), leave(1); }
static void by_call(void) {
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0)) leave(8);
    syscall(SYS_getpid), leave(1);
}
static void hot(void) {
    for (int i = 0; i < 200; i++) syscall(SYS_getppid);
    enter(), syscall(SYS_getppid), say("no\n"), leave(1);
}

static void *strict_thread(void *how) {
    enter();
    if (how) syscall(SYS_getppid), say("no\n");
    leave(0);
    return 0;
}

// Threads of which one, then another, become strict: the others are free.
static void threads(void) {
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, strict_thread, (void *)(long)(i & 1));
        pthread_join(thread, 0);
    }
    printf("free %d\n", prctl(PR_GET_SECCOMP)), fflush(stdout);
    _exit(6);
}

static void run(const char *name, void (*what)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) what(), _exit(77);
    int status = 0;
    if (what == handled)
        for (int i = 0; i < 300 && waitpid(pid, &status, WNOHANG) == 0; i++) usleep(10000), kill(pid, SIGALRM);
    else
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    printf("%s %s %d\n", name, WIFSIGNALED(status) ? "killed" : "exited", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static void answers(void) {
    char line[100];
    printf("%d\n", getpid()), fflush(stdout);
    enter();
    for (;;) {
        long bytes = read(0, line, sizeof line);
        if (bytes <= 0) leave(3);
        if (!memcmp(line, "end", 3)) syscall(SYS_getppid), say("no\n"), leave(1);
        say("strict\n");
    }
}

static void *filtered(void *unused) {
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};
    char byte;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) say("no filter\n");
    printf("%d\n", getpid()), fflush(stdout);
    (void)!read(0, &byte, 1);
    return unused;
}

static void show(const char *what, long result) { printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "done"); }

#define VERDICT(number, verdict) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, (verdict))

static void nobody_listens(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        VERDICT(SYS_getppid, SECCOMP_RET_USER_NOTIF),
        VERDICT(SYS_getuid, SECCOMP_RET_USER_NOTIF),
        VERDICT(SYS_getpgid, SECCOMP_RET_TRACE | 1),
        VERDICT(SYS_getgid, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    show("filter", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    printf("mode %d\n", prctl(PR_GET_SECCOMP));
    show("getppid", syscall(SYS_getppid));
    show("getuid", syscall(SYS_getuid));
    show("getpgid", syscall(SYS_getpgid, 0));
    show("getgid", syscall(SYS_getgid));
    show("strict after a filter", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    fflush(stdout);
    _exit(2);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, filtered, 0);
        pthread_join(thread, 0);
        puts("ended");
        return 0;
    }
    if (argc > 1) answers();
    if (pipe(pipes)) return 1;
    printf("mode %d\n", prctl(PR_GET_SECCOMP));
    show("flags", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0));
    show("argument", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, pipes));
    run("left", left);
    run("handled", handled);
    run("trapped", opens);
    run("native", native);
    run("unknown", unknown);
    run("group", group);
    run("sleeps", sleeps);
    run("call", by_call);
    run("hot", hot);
    run("threads", threads);
    run("nobody", nobody_listens);
    return 0;
}
