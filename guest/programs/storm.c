// A storm of timer signals over system calls, forks and spawns: nothing may be lost or doubled.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static volatile long alarms;
static volatile double kept;

static void handler(int signal) {
    (void)signal;
    alarms++;
    kept = kept * 1.0000001 + 1.0;
    errno = 12345;
}

static void check(int good, const char *what) {
    if (!good) { printf("FAILED: %s (errno %d)\n", what, errno); exit(1); }
}

static void *echo(void *arg) {
    int *fds = arg;
    char c;
    while (read(fds[0], &c, 1) == 1) check(write(fds[1], &c, 1) == 1, "thread write");
    return 0;
}

int main(void) {
    struct sigaction action = {0};
    struct itimerval timer = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &timer, 0);

    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGALRM);
    for (int i = 0; i < 300; i++) {
        sigprocmask(SIG_BLOCK, &block, &old);
        long before = alarms;
        check(sigsuspend(&old) == -1 && errno == EINTR, "sigsuspend");
        check(alarms > before, "sigsuspend ran no handler");
        sigset_t now;
        sigprocmask(SIG_BLOCK, 0, &now);
        check(sigismember(&now, SIGALRM), "sigsuspend kept the mask");
        struct timespec second = {1, 0};
        check(ppoll(0, 0, &second, &old) == -1 && errno == EINTR, "ppoll");
        sigprocmask(SIG_SETMASK, &old, 0);
    }
    puts("suspend ok");

    int to[2], from[2];
    pthread_t thread;
    check(!pipe(to) && !pipe(from), "pipe");
    int fds[2] = {to[0], from[1]};
    pthread_create(&thread, 0, echo, fds);
    for (int i = 0; i < 2000; i++) {
        char c = (char)i, back = 0;
        double sum = 0;
        for (int k = 0; k < 50; k++) sum += k * 0.5;
        check(write(to[1], &c, 1) == 1, "write");
        check(read(from[0], &back, 1) == 1 && back == c, "echo");
        check(sum == 612.5, "floating point");
    }
    close(to[1]);
    pthread_join(thread, 0);
    puts("echo ok");

    for (int i = 0; i < 150; i++) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (!child) { usleep(100); _exit(i & 63); }
        int status;
        check(waitpid(child, &status, 0) == child, "waitpid");
        check(WIFEXITED(status) && WEXITSTATUS(status) == (i & 63), "status");
    }
    puts("fork ok");
    for (int i = 0; i < 60; i++) {
        char *args[] = {"true", 0};
        pid_t child;
        check(!posix_spawn(&child, "/bin/true", 0, 0, args, environ), "posix_spawn");
        int status;
        check(waitpid(child, &status, 0) == child && !status, "spawn status");
        child = vfork();
        if (!child) { execl("/nonexistent", "x", (char *)0); _exit(9); }
        check(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 9, "vfork status");
    }
    puts("spawn ok");
    check(posix_spawn(&(pid_t){0}, "/nonexistent", 0, 0, (char *[]){"x", 0}, environ) == ENOENT, "spawn errno");
    setitimer(ITIMER_REAL, &off, 0);
    puts(alarms > 100 ? "alarms ok" : "too few alarms");
    return 0;
}
