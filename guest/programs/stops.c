/* Children that stop as soon as they are made, perhaps before anybody knows of them: each stop is told, and its end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 300, stopped = 0, ended = 0;
    alarm(20);
    for (int round = 0; round < rounds; round++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            raise(SIGSTOP);
            _exit(3);
        }
        stopped += waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
        kill(child, SIGCONT);
        ended += waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3;
    }
    printf("stopped %d ended %d\n", stopped, ended);
    return 0;
}
