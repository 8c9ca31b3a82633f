// poke RATE COMMAND...: runs a command and sends signal 16 to each thread of all its processes RATE
// times a second, with bursts; exits as the command does. Signal 16 starts blocked, as exec leaves it.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { POKE = 16, THREADS_MAX = 4096, TICKS_PER_LOOK = 4, TICKS_PER_BURST = 64, BURST = 16 };
static struct { pid_t process, thread; } threads[THREADS_MAX];
static int count;
static long sent;

static void look(pid_t process) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", process);
    DIR *tasks = opendir(path);
    if (!tasks) return;
    for (struct dirent *entry; (entry = readdir(tasks)) && count < THREADS_MAX;) {
        pid_t thread = atoi(entry->d_name);
        if (thread <= 0) continue;
        threads[count].process = process;
        threads[count++].thread = thread;
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", process, thread);
        FILE *children = fopen(path, "r");
        if (!children) continue;
        int child;
        while (fscanf(children, "%d", &child) == 1) look(child);
        fclose(children);
    }
    closedir(tasks);
}

static void poke(int times) {
    for (int i = 0; i < count; i++)
        for (int k = 0; k < times; k++)
            sent += !syscall(SYS_tgkill, threads[i].process, threads[i].thread, POKE);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    struct timespec tick = {0, 1000000000 / atoi(argv[1])};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, POKE);
    sigprocmask(SIG_BLOCK, &set, 0);
    prctl(PR_SET_TIMERSLACK, 1);
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_TIMERSLACK, 0);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    for (long n = 0; waitpid(child, &status, WNOHANG) == 0; n++) {
        if (n % TICKS_PER_LOOK == 0) {
            count = 0;
            look(child);
        }
        poke(n % TICKS_PER_BURST ? 1 : BURST);
        nanosleep(&tick, 0);
    }
    if (getenv("POKE_COUNT")) fprintf(stderr, "poked %ld times\n", sent);
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(WTERMSIG(status), SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    raise(WTERMSIG(status));
    return 1;
}
