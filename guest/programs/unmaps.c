// unmaps: does to the range of addresses that is the shim's what a program may do to any memory, as one to whom
// nothing is mapped there. Prints what it meets; the last child unmaps all there is and dies as it would anywhere.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESERVED ((char *)0x700000000000)
#define LENGTH (1UL << 32)
enum { PAGE = 4096 };

static void show(const char *what, long result) {
    printf("%s %s\n", what, result == -1 ? strerrorname_np(errno) : "done");
}

static int end_of(void (*child)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        child();
        _exit(0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

static void unmap_everything(void) {
    for (unsigned long length = 1UL << 47; length >= PAGE; length /= 2) munmap(0, length - PAGE);
    munmap((void *)PAGE, (1UL << 47) - 3 * PAGE);
}

static void on_fault(int number) { _exit(number); }

static void unmap_with_a_handler(void) {
    signal(SIGSEGV, on_fault);
    unmap_everything();
}

static void jump_there(void) { ((void (*)(void))(RESERVED + LENGTH - PAGE))(); }

int main(void) {
    show("munmap", munmap(RESERVED, LENGTH));
    show("munmap around", munmap(RESERVED - PAGE, LENGTH + 2 * PAGE));
    show("mprotect", mprotect(RESERVED, LENGTH, PROT_NONE));
    show("madvise", madvise(RESERVED, LENGTH, MADV_DONTNEED));
    char *own = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(own, "kept");
    char *hinted = mmap(RESERVED + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("hint %s\n", hinted == MAP_FAILED ? strerrorname_np(errno) : "taken or not");
    char *moved = mremap(own, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, hinted);
    printf("mremap %s\n", moved == hinted ? moved : "lost");
    // Whether it may be there is each machine's own affair.
    int segment = shmget(IPC_PRIVATE, 4 * PAGE, 0600);
    char *attached = shmat(segment, RESERVED - PAGE, SHM_REMAP | SHM_RND);
    if (attached != (void *)-1) shmdt(attached);
    attached = shmat(segment, 0, 0);
    printf("shmat %s\n", attached == (void *)-1 ? strerrorname_np(errno) : "done");
    shmctl(segment, IPC_RMID, 0);
    printf("pid %d\n", getpid() == (int)syscall(SYS_getpid));
    printf("everything %d\n", WTERMSIG(end_of(unmap_everything)));
    printf("with a handler %d\n", WTERMSIG(end_of(unmap_with_a_handler)));
    printf("jump %d\n", WTERMSIG(end_of(jump_there)));
    return 0;
}
