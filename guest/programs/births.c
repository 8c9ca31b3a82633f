// Starts programs and forks and waits for them: `births spawn N` by posix_spawn(3), `births fork N` by fork(2).
// What each is does nothing: /bin/true, or an immediate end.
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pid_t spawned(void) {
    char *arguments[] = {"true", NULL};
    pid_t child;
    return posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) ? -1 : child;
}

static pid_t forked(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    return child;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: births spawn|fork N\n");
        return 2;
    }
    pid_t (*birth)(void) = strcmp(argv[1], "spawn") ? forked : spawned;
    for (int left = atoi(argv[2]); left > 0; left--) {
        int status;
        pid_t child = birth();
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            perror("births");
            return 1;
        }
    }
    return 0;
}
