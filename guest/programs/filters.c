// filters: what a program and what it executes see of seccomp filters of its own (seccomp(2)): errnos, signals with their
// data, the end. Prints what it meets.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define VERDICT(number, verdict) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, (verdict))
#define LOAD_NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void install(const char *what, struct sock_filter *code, unsigned short length, int by_prctl) {
    struct sock_fprog program = {length, code};
    long result = by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
                           : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    printf("%s %s\n", what, result ? strerrorname_np(errno) : "installed");
}

static void show(const char *what, long result) {
    printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : result ? "done" : "zero");
}

static volatile int calls, numbers, data, codes;

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    calls++;
    codes = info->si_code;
    numbers = info->si_syscall;
    data = info->si_errno;
}

static void show_signal(const char *what) {
    printf("%s %d signals, code %d, call %d, data %d\n", what, calls, codes, numbers, data);
    calls = 0;
}

// What filters refuse: calls that a layer below may know, and others.
static void meet(void) {
    show("getppid", getppid());
    show("mkdir", mkdir("/tmp", 0700));
    show("setpgid", setpgid(0, 0));
}

static int end_of(int number) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        syscall(number);
        _exit(0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 1024);
    if (argc > 1) {
        puts("executed");
        meet();
        return 3;
    }
    struct stat found;
    // Hot before there is a filter.
    for (int i = 0; i < 100; i++) fstat(0, &found), getppid(), close(open("/dev/null", O_RDONLY));
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    struct sock_filter signals[] = {
        LOAD_NUMBER,
        VERDICT(SYS_uname, SECCOMP_RET_TRAP | 7),
        VERDICT(SYS_getsid, SECCOMP_RET_TRAP | 9),
        VERDICT(SYS_getpgid, SECCOMP_RET_TRAP),
        VERDICT(SYS_getuid, SECCOMP_RET_KILL_PROCESS),
        VERDICT(SYS_pause, SECCOMP_RET_KILL_PROCESS),
        ALLOW,
    };
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, 0);
    install("signals", signals, sizeof signals / sizeof *signals, 1);
    struct utsname name;
    uname(&name), show_signal("uname");
    for (int i = 0; i < 20; i++) getsid(0);
    show_signal("getsid");
    getpgid(0), show_signal("getpgid");
    printf("killed by %d and %d\n", WTERMSIG(end_of(SYS_getuid)), WTERMSIG(end_of(SYS_pause)));
    signal(SIGSYS, SIG_DFL);
    printf("by default %d\n", WTERMSIG(end_of(SYS_getsid)));

    struct sock_filter errnos[] = {
        LOAD_NUMBER,
        VERDICT(SYS_getppid, SECCOMP_RET_ERRNO),
        VERDICT(SYS_mkdir, SECCOMP_RET_ERRNO | EROFS),
        VERDICT(SYS_setpgid, SECCOMP_RET_ERRNO | EPERM),
        ALLOW,
    };
    install("errnos", errnos, sizeof errnos / sizeof *errnos, 0);
    meet();
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execl("/proc/self/exe", "filters", "again", NULL);
        _exit(9);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));

    struct sock_filter more[] = {
        LOAD_NUMBER,
        VERDICT(SYS_openat, SECCOMP_RET_ERRNO | EACCES),
        VERDICT(SYS_fstat, SECCOMP_RET_ERRNO | EXDEV),
        VERDICT(SYS_newfstatat, SECCOMP_RET_ERRNO | EXDEV),
        ALLOW,
    };
    install("more", more, sizeof more / sizeof *more, 0);
    show("openat", open("/dev/null", O_RDONLY));
    show("fstat", fstat(0, &found));
    meet();
    struct sock_filter wrong[] = {LOAD_NUMBER};
    install("wrong", wrong, 1, 0);
    return 0;
}
