// Computes: `computes N SECONDS` makes N children by fork(2), each of which uses so much CPU time, and waits for them;
// `computes 0 SECONDS` does it by itself.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void compute(double seconds) {
    volatile unsigned long sum = 0;
    while ((double)clock() / CLOCKS_PER_SEC < seconds)
        for (int i = 0; i < 20000; i++) sum += i;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: computes N SECONDS\n"), 2;
    int children = atoi(argv[1]), failed = 0;
    double seconds = atof(argv[2]);
    if (children == 0) compute(seconds);
    for (int i = 0; i < children; i++) {
        pid_t child = fork();
        if (child < 0) return perror("fork"), 1;
        if (child == 0) {
            // CPU time is counted anew in a child.
            compute(seconds);
            _exit(0);
        }
    }
    for (int i = 0; i < children; i++) {
        int status;
        failed |= wait(&status) < 0 || status != 0;
    }
    return failed;
}
