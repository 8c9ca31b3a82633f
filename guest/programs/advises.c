// advises: process_madvise(2) and process_mrelease(2), of itself, of a child, or of a process that is named. Prints what it meets.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 1 << 20, WILLNEED = 3, DONTNEED = 4, COLD = 20, PAGEOUT = 21 };
static char *memory;

static void show(const char *what, long result) {
    if (result < 0) printf("%s %s\n", what, strerrorname_np(errno));
    else printf("%s %ld\n", what, result);
}

static long advise(int fd, struct iovec *parts, long count, int advice, unsigned flags) {
    return syscall(SYS_process_madvise, fd, parts, count, advice, flags);
}

// A child that tells whether its memory is as it was.
static pid_t child(int *to) {
    int pipes[2], ready[2];
    char byte;
    if (pipe(pipes) || pipe(ready)) exit(9);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        close(pipes[1]);
        memset(memory, 5, BYTES / 2);
        (void)!write(ready[1], "r", 1);
        (void)!read(pipes[0], &byte, 1);
        for (int i = 0; i < BYTES; i++) if (memory[i] != (i < BYTES / 2 ? 5 : 7)) _exit(1);
        _exit(0);
    }
    close(pipes[0]);
    (void)!read(ready[0], &byte, 1);
    close(ready[0]), close(ready[1]);
    *to = pipes[1];
    return pid;
}

static void all(const char *who, int fd) {
    struct iovec parts[3] = {{memory, BYTES / 2}, {memory + BYTES / 2, 8192}, {memory + 1, 4096}};
    static struct iovec many[1025];
    printf("- %s\n", who);
    show("cold", advise(fd, parts, 2, COLD, 0));
    show("pageout", advise(fd, parts, 1, PAGEOUT, 0));
    show("willneed", advise(fd, parts, 2, WILLNEED, 0));
    show("nothing", advise(fd, parts, 0, COLD, 0));
    show("unaligned", advise(fd, parts, 3, COLD, 0));
    show("unaligned first", advise(fd, parts + 2, 1, COLD, 0));
    parts[1].iov_base = (char *)4096;
    show("unmapped", advise(fd, parts, 2, COLD, 0));
    show("an advice that is none", advise(fd, parts, 1, 4711, 0));
    show("flags", advise(fd, parts, 1, COLD, 1));
    show("nowhere", advise(fd, (void *)8, 1, COLD, 0));
    show("too many", advise(fd, many, 1025, COLD, 0));
    show("release", syscall(SYS_process_mrelease, fd, 0));
    show("release with flags", syscall(SYS_process_mrelease, fd, 1));
}

int main(int argc, char **argv) {
    int to, status, fd;
    struct iovec part;
    memory = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 7, BYTES);
    part = (struct iovec){memory, 4096};
    if (argc > 1) {
        fd = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
        show("cold", advise(fd, &part, 1, COLD, 0));
        show("release", syscall(SYS_process_mrelease, fd, 0));
        return 0;
    }
    show("closed", advise(-1, &part, 1, COLD, 0));
    show("a file", advise(open("/dev/null", O_RDONLY), &part, 1, COLD, 0));
    show("release of a file", syscall(SYS_process_mrelease, 0, 0));
    all("itself", syscall(SYS_pidfd_open, getpid(), 0));
    pid_t pid = child(&to);
    fd = syscall(SYS_pidfd_open, pid, 0);
    all("a child", fd);
    show("loss", advise(fd, &part, 1, DONTNEED, 0));
    fflush(stdout);
    if (!fork()) {
        if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) _exit(1);
        show("as a user", advise(fd, &part, 1, COLD, 0));
        fflush(stdout);
        _exit(0);
    }
    wait(&status);
    close(to);
    waitpid(pid, &status, 0);
    printf("its memory %s\n", status ? "changed" : "as it was");
    show("ended", advise(fd, &part, 1, COLD, 0));
    show("release of the ended", syscall(SYS_process_mrelease, fd, 0));
    // Killed and not waited for: released now, or gone already.
    pid = child(&to);
    fd = syscall(SYS_pidfd_open, pid, 0);
    kill(pid, SIGKILL);
    long result = syscall(SYS_process_mrelease, fd, 0);
    printf("killed %s\n", result == 0 || errno == ESRCH ? "released" : strerrorname_np(errno));
    waitpid(pid, &status, 0);
    printf("signal %d\n", WTERMSIG(status));
    return 0;
}
