// Shows what an exec gave: privileges MODE...
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned long long line(const char *name) {
    char text[512];
    unsigned long long value = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(text, sizeof text, status))
        if (!strncmp(text, name, strlen(name))) value = strtoull(text + strlen(name) + 1, 0, 16);
    if (status) fclose(status);
    return value;
}

static void set(const char *name, const char *file) {
    unsigned long long value = line(file), all = line("CapBnd");
    // What there is at all differs from machine to machine.
    if (value && (value & all) == all) printf(" %s all", name);
    else printf(" %s %llx", name, value);
}

static void show(void) {
    uid_t u[3];
    gid_t g[3];
    getresuid(u, u + 1, u + 2);
    getresgid(g, g + 1, g + 2);
    printf("uid %d %d %d %d gid %d %d %d %d groups %d\n", u[0], u[1], u[2], setfsuid(-1), g[0], g[1],
           g[2], setfsgid(-1), getgroups(0, 0));
    printf("auxv %lu %lu %lu %lu secure %lu dumpable %d bits %x new %d\n", getauxval(AT_UID),
           getauxval(AT_EUID), getauxval(AT_GID), getauxval(AT_EGID), getauxval(AT_SECURE),
           prctl(PR_GET_DUMPABLE), prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    set("effective", "CapEff");
    set("permitted", "CapPrm");
    set("inheritable", "CapInh");
    set("ambient", "CapAmb");
    puts("");
    fflush(stdout);
}

// What an exec leaves as it is; argument: the process's number before.
static void stays(const char *pid) {
    char text[64] = "", path[4096];
    sigset_t blocked, pending;
    struct sigaction action;
    struct rlimit limit;
    mode_t mask = umask(0);
    umask(mask);
    getrlimit(RLIMIT_NOFILE, &limit);
    sigprocmask(SIG_BLOCK, 0, &blocked);
    sigpending(&pending);
    sigaction(SIGUSR2, 0, &action);
    ssize_t got = read(7, text, sizeof text - 1);
    char *last = getcwd(path, sizeof path) ? strrchr(path, '/') : 0;
    printf("same %d umask %o files %lu in %s descriptor %zd %s blocked %d pending %d ignored %d\n",
           getpid() == atoi(pid), mask, (unsigned long)limit.rlim_cur, last ? last : "?", got, text,
           sigismember(&blocked, SIGUSR1), sigismember(&pending, SIGUSR1),
           action.sa_handler == SIG_IGN);
    const char *kept = getenv("KEPT"), *preload = getenv("LD_PRELOAD");
    printf("kept %s preload %s\n", kept ? kept : "-", preload ? preload : "-");
}

static void look_into(const char *pid) {
    char path[64];
    const char *files[] = {"environ", "maps", "fd", "exe", "stat"};
    long result = ptrace(PTRACE_SEIZE, atoi(pid), 0, 0);
    printf("seize %s\n", result ? strerror(errno) : "fine");
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s", pid, files[i]);
        char text[8];
        int file = open(path, O_RDONLY | (i == 2 ? O_DIRECTORY : 0));
        int fine = i == 3 ? readlink(path, text, sizeof text) > 0 : i == 2 ? file >= 0 : read(file, text, 8) > 0;
        printf("%s %s\n", files[i], fine ? "open" : "closed");
        if (file >= 0) close(file);
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "stays")) stays(argv[2]);
    if (!strcmp(mode, "look")) return look_into(argv[2]), 0;
    if (!strcmp(mode, "become")) printf("become %d\n", setresuid(0, 0, 0));
    if (!strcmp(mode, "drop")) printf("drop %d %d\n", setresgid(getgid(), getgid(), getgid()), setresuid(getuid(), getuid(), getuid()));
    if (!strcmp(mode, "swap")) printf("swap %d\n", setresuid(-1, getuid(), -1));
    if (!strcmp(mode, "odd")) {
        printf("odd %d %d\n", prctl(PR_SET_SECUREBITS, 0x2f), prctl(PR_CAPBSET_DROP, 7));
        setfsuid(getuid());
    }
    show();
    // Whoever is told the number may do something about it before the end of input.
    if (getenv("PAUSE")) {
        printf("%d\n", getpid());
        fflush(stdout);
        while (getchar() != EOF) {}
        show();
    }
    if (!strcmp(mode, "swap")) printf("back %d\n", setresuid(-1, 0, -1)), show();
    // For as long as that takes others: seconds of work, and again.
    if (!strcmp(mode, "often")) {
        char first[1024], now[1024];
        uid_t u[3];
        gid_t g[3];
        for (int i = 0; i < atoi(argv[2]); i++) {
            getresuid(u, u + 1, u + 2);
            getresgid(g, g + 1, g + 2);
            snprintf(now, sizeof now, "%d %d %d %d %d %d %d %d %d %x %llx %llx %llx %llx %llx", u[0], u[1], u[2],
                     setfsuid(-1), g[0], g[1], g[2], setfsgid(-1), prctl(PR_GET_DUMPABLE),
                     prctl(PR_GET_SECUREBITS), line("CapEff"), line("CapPrm"), line("CapInh"), line("CapBnd"),
                     line("CapAmb"));
            if (i == 0) strcpy(first, now);
            if (strcmp(first, now)) return printf("%s, then %s\n", first, now), 1;
            usleep(5000);
        }
    }
    if (!strcmp(mode, "wait") || !strcmp(mode, "become")) {
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    }
    // The rest of the arguments is a program.
    int next = !strcmp(mode, "stays") || !strcmp(mode, "often") ? 3 : 2;
    if (argc > next) execv(argv[next], argv + next), perror(argv[next]);
    return 0;
}
