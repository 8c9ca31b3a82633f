// shares: children that run in their parent's memory while it goes on (clone(2) with CLONE_VM and without CLONE_VFORK):
// numbers of their own, descriptors of their own, signal actions of both with CLONE_SIGHAND; more of them, one after the
// other, than a process has threads.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK = 64 * 1024, CHILDREN = 9000 };

static volatile pid_t seen;
static int ends[2];

static int name_oneself(void *unused) {
    (void)unused;
    seen = getpid();
    close(ends[0]);
    return 5;
}

static void on_signal(int number) { (void)number; }

static int act(void *unused) {
    (void)unused;
    signal(SIGUSR1, on_signal);
    return 0;
}

static int run(int (*child)(void *), int flags, char *stack) {
    pid_t pid = clone(child, stack + STACK, flags | CLONE_VM | SIGCHLD, 0);
    if (pid < 0) return -errno;
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    if (child == name_oneself && seen != pid) return -1000;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -2000;
}

static void check(const char *what, int is_right) { printf("%s %s\n", what, is_right ? "ok" : "FAILED"); }

int main(void) {
    char *stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    pid_t own = getpid();
    int is_right = pipe(ends) == 0;
    check("pipe", is_right);
    check("child", run(name_oneself, 0, stack) == 5);
    check("child of the same actions", run(name_oneself, CLONE_FS | CLONE_SIGHAND, stack) == 5);
    check("own number", getpid() == own && getppid() != own);
    check("own descriptors", write(ends[1], "x", 1) == 1);
    run(act, 0, stack);
    check("actions apart", signal(SIGUSR1, SIG_DFL) == SIG_DFL);
    run(act, CLONE_SIGHAND, stack);
    check("actions together", signal(SIGUSR1, SIG_DFL) == on_signal);
    int count = 0;
    while (count < CHILDREN && run(name_oneself, CLONE_FS | CLONE_SIGHAND, stack) == 5) count++;
    check("many", count == CHILDREN);
    check("own number still", getpid() == own);
    return 0;
}
