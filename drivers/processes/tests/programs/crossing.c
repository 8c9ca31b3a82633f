/* A process that is moved, and one that sends it signals. As "receiver" it does what it is told line by
 * line and notes the values of SIGRTMIN; as "sender PID COUNT" it queues COUNT of them in order. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VALUES_MAX 100000

static volatile int values[VALUES_MAX];
static volatile int count;
static volatile int sender;

static void note(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    if (info->si_code != SI_QUEUE)
        return;
    if (count < VALUES_MAX)
        values[count] = info->si_value.sival_int;
    count = count + 1;
    sender = info->si_pid;
}

static int send_all(int pid, int number) {
    for (int i = 0; i < number; i++) {
        union sigval value = {.sival_int = i};
        /* More than 500 at once would keep it from moving. */
        usleep(300);
        while (sigqueue(pid, SIGRTMIN, value)) {
            if (errno != EAGAIN) {
                printf("sigqueue %d: %s\n", i, strerror(errno));
                return 1;
            }
            usleep(100);
        }
    }
    printf("sent\n");
    return 0;
}

static int spawn(int status) {
    int pid = fork();
    if (pid == 0) {
        if (status >= 0)
            _exit(status);
        for (;;)
            pause();
    }
    return pid;
}

/* "COUNT in order from SENDER", or where it is not. */
static void tell_values(void) {
    for (int i = 0; i < count; i++)
        if (values[i] != i) {
            printf("value %d is %d\n", i, values[i]);
            return;
        }
    printf("%d in order from %d\n", count, sender);
}

static void reap(int pid) {
    int status;
    int got = waitpid(pid, &status, 0);
    if (got < 0)
        printf("error %d\n", errno);
    else if (WIFSIGNALED(status))
        printf("%d killed %d\n", got, WTERMSIG(status));
    else
        printf("%d exited %d\n", got, WEXITSTATUS(status));
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "sender"))
        return send_all(atoi(argv[2]), atoi(argv[3]));
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGRTMIN, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int a = 0, b = 0;
        if (!strcmp(line, "who\n"))
            printf("%d %d %d\n", getpid(), getpgrp(), getsid(0));
        else if (!strcmp(line, "got\n"))
            tell_values();
        else if (sscanf(line, "spawn %d", &a) == 1)
            printf("%d\n", spawn(a));
        else if (sscanf(line, "kill %d %d", &a, &b) == 2)
            printf("%d\n", kill(a, b) ? errno : 0);
        else if (sscanf(line, "group %d %d", &a, &b) == 2)
            printf("%d\n", setpgid(a, b) ? errno : 0);
        else if (sscanf(line, "reap %d", &a) == 1)
            reap(a);
        else if (sscanf(line, "exit %d", &a) == 1)
            return a;
        else
            printf("?\n");
    }
    /* The end of its input comes only after an exit: 100 and up is an errno. */
    return ferror(stdin) ? 100 + errno : 99;
}
