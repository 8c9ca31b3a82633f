// mappings: rarer things that programs do with memory and files: stacks that grow, huge pages, segments over a mapping
// (shmat(2), SHM_REMAP), POSIX AIO, core dumps. Prints what it meets.
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, BYTES = 8 };
static const int OWN = MAP_PRIVATE | MAP_ANONYMOUS, ACCESS = PROT_READ | PROT_WRITE;

static const char *outcome(int is_done) { return is_done ? "done" : strerrorname_np(errno); }

static void grows(void) {
    char *room = mmap(0, 64 * PAGE, ACCESS, OWN, -1, 0);
    munmap(room, 63 * PAGE);
    char *top = mmap(room + 63 * PAGE, PAGE, ACCESS, OWN | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    printf("grows down %s\n", outcome(top != MAP_FAILED));
    for (int i = 0; i < 20; i++) top[-i * PAGE] = i;
    printf("has grown %d\n", top[-19 * PAGE]);
    printf("mprotect %s\n", outcome(!mprotect(top, PAGE, ACCESS | PROT_GROWSDOWN)));
}

static void huge(void) {
    char *pages = mmap(0, HUGE, ACCESS, OWN | MAP_HUGETLB, -1, 0);
    printf("huge pages %s\n", outcome(pages != MAP_FAILED));
    char *aligned = aligned_alloc(HUGE, 2 * HUGE);
    printf("madvise %s\n", outcome(!madvise(aligned, 2 * HUGE, MADV_HUGEPAGE)));
    memset(aligned, 1, 2 * HUGE);
    printf("holds %d\n", aligned[2 * HUGE - 1]);
}

static void attaches(void) {
    int segment = shmget(IPC_PRIVATE, PAGE, 0600);
    char *own = mmap(0, PAGE, ACCESS, OWN, -1, 0);
    printf("over a mapping %d\n", shmat(segment, own, SHM_REMAP) == own);
    shmctl(segment, IPC_RMID, 0);
}

static void transfers(void) {
    char written[BYTES] = "written", found[BYTES] = "";
    FILE *file = tmpfile();
    struct aiocb write = {.aio_fildes = fileno(file), .aio_buf = written, .aio_nbytes = BYTES};
    const struct aiocb *wait[] = {&write};
    aio_write(&write);
    while (aio_error(&write) == EINPROGRESS) aio_suspend(wait, 1, 0);
    printf("aio_write %zd\n", aio_return(&write));
    struct aiocb read = {
        .aio_fildes = fileno(file), .aio_buf = found, .aio_nbytes = BYTES, .aio_lio_opcode = LIO_READ};
    struct aiocb *list[] = {&read};
    printf("lio_listio %s %s\n", outcome(!lio_listio(LIO_WAIT, list, 1, 0)), found);
}

static void die(int way) {
    if (way == 0) abort();
    if (way == 1) *(volatile int *)0 = 1;
    raise(way == 2 ? SIGSEGV : SIGQUIT);
}

static void dumps(void) {
    char folder[] = "mappings-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder)) return;
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
    for (int way = 0; way < 4; way++) {
        fflush(stdout);
        pid_t pid = fork();
        if (!pid) {
            die(way);
            _exit(0);
        }
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        printf("signal %d core %d\n", WTERMSIG(status), !!WCOREDUMP(status));
        fflush(stdout);
        // Where cores go is the machine's own affair.
        system("ls | tr -d 0-9; rm -f *");
    }
    chdir("..");
    rmdir(folder);
}

int main(void) {
    grows();
    huge();
    attaches();
    transfers();
    dumps();
    return 0;
}
