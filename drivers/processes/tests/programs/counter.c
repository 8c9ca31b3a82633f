/* Counts the lines that it reads: in a variable, on the heap, and in a register-hungry loop. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char line[64];
    int *count = malloc(sizeof *count);
    *count = 0;
    while (fgets(line, sizeof line, stdin)) {
        *count += 1;
        printf("%d %s", *count, line);
        fflush(stdout);
    }
    if (ferror(stdin)) {
        fprintf(stderr, "reading: errno %d\n", errno);
        return 8;
    }
    free(count);
    return 7;
}
