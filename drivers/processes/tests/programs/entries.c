// Directories that are read in small parts: of the tree, and of the process's own descriptors. Each entry
// must come once, however often the process moves in between.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COUNT = 500, DESCRIPTORS = 60 };
static char seen[2][COUNT], wrong[300];

// Reads some entries; 0 at the end.
static int more(int fd, char *seen, int count) {
    char part[400];
    long length = syscall(SYS_getdents64, fd, part, sizeof part);
    if (length < 0) sprintf(wrong, "getdents64: %m");
    for (long at = 0; at < length;) {
        struct dirent64 *entry = (void *)(part + at);
        at += entry->d_reclen;
        if (*entry->d_name == '.') continue;
        int number = atoi(entry->d_name);
        if (number < 0 || number >= count || seen[number]++) sprintf(wrong, "%s came twice", entry->d_name);
    }
    return length > 0;
}

int main(void) {
    char line[64], folder[200], name[220];
    snprintf(folder, sizeof folder, "%s/entries-%d", getenv("T"), getpid());
    mkdir(folder, 0700);
    for (int i = 0; i < COUNT; i++) {
        sprintf(name, "%s/%d", folder, i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    int tree = open(folder, O_RDONLY | O_DIRECTORY), own = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
    int status = open("/proc/self/status", O_RDONLY);
    if (tree < 0 || own < 0 || status < 0) return 2;
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (fcntl(fd, F_GETFD) < 0) dup2(tree, fd);
    while (fgets(line, sizeof line, stdin)) {
        more(tree, seen[0], COUNT), more(own, seen[1], COUNT);
        if (*line == 'e') {
            while (more(tree, seen[0], COUNT)) {}
            while (more(own, seen[1], COUNT)) {}
            for (int i = 0; i < COUNT; i++)
                if (!seen[0][i]) sprintf(wrong, "entry %d is missing", i);
            for (int i = 0; i < DESCRIPTORS; i++)
                if (!seen[1][i]) sprintf(wrong, "descriptor %d is missing", i);
        }
        if (pread(status, name, sizeof name, 0) < 10) sprintf(wrong, "status: %m");
        puts(*wrong ? wrong : "good");
        fflush(stdout);
    }
    for (int i = 0; i < COUNT; i++) {
        sprintf(name, "%s/%d", folder, i);
        unlink(name);
    }
    rmdir(folder);
    return *wrong != 0;
}
