// keeps NODE-LOCAL-SET-ID-PROGRAM PLAIN-PROGRAM: a guest that rings the doorbell by itself, keeps the shim that it gets for
// one program and starts another one with it. Prints what each attempt came to.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DOORBELL = 0x4d55, OP_EXEC = 7, EMPTY_PATH = 0x1000 };
static const unsigned char *const TEXT = (const unsigned char *)0x700000000000;
enum { TEXT_BYTES = 0x200000 };

struct request {
    int32_t exe;
    uint32_t flags;
    uint64_t name, argv, envp, ignored, blocked, private_fds[16];
    uint32_t securebits, reserved;
};

// A call from the shim's text, which the filter lets pass: `syscall; ret`.
static const void *gadget;
static long call(long nr, long a, long b, long c, long d, long e) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("call *%[at]" : "=a"(result) : [at] "r"(gadget), "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static void find_gadget(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[256];
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char access[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, access) != 3 || access[0] != 'r' || access[2] != 'x') continue;
        if (from < (unsigned long)TEXT || to > (unsigned long)TEXT + TEXT_BYTES) continue;
        for (const unsigned char *at = (void *)from; at + 3 <= (unsigned char *)to && !gadget; at++)
            if (at[0] == 0x0f && at[1] == 0x05 && at[2] == 0xc3) gadget = at;
    }
    fclose(maps);
}

static char *const envp[] = {0};

// Asks to execute a program; returns the shim for it.
static int ask(const char *program) {
    static char *argv[2];
    argv[0] = (char *)program;
    int exe = open(program, O_RDONLY | O_CLOEXEC);
    struct request request = {.exe = exe, .flags = 1, .name = (uint64_t)program, .argv = (uint64_t)argv, .envp = (uint64_t)envp};
    long shim = call(DOORBELL, OP_EXEC, (long)&request, 0, 0, 0);
    if (exe < 0 || shim < 0) {
        printf("no shim for %s: %ld\n", program, shim);
        exit(1);
    }
    return shim;
}

static void start(int shim, const char *program) {
    char *argv[] = {(char *)program, 0};
    long result = call(SYS_execveat, shim, (long)"", (long)argv, (long)envp, EMPTY_PATH);
    printf("not executed: %ld\n", result);
    exit(1);
}

static void attempt(const char *what, const char *with, const char *asked, int kept) {
    printf("- %s\n", what);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        int shim = with ? ask(with) : kept;
        int last = asked ? ask(asked) : -1;
        start(shim >= 0 ? shim : last, asked ? asked : with ? with : "nothing");
    }
    int status;
    waitpid(child, &status, 0);
    printf("status %x\n", status);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *privileged = argv[1], *plain = argv[2];
    find_gadget();
    if (!gadget) return 3;
    attempt("as it should be", privileged, 0, -1);
    attempt("plain", plain, 0, -1);
    attempt("the other one's shim", privileged, plain, -1);
    attempt("a plain shim", plain, privileged, -1);
    int pair[2];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    // What another process was given.
    pid_t child = fork();
    if (!child) {
        int shim = ask(privileged);
        char control[CMSG_SPACE(sizeof shim)] = {0}, byte = 0;
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof shim);
        memcpy(CMSG_DATA(header), &shim, sizeof shim);
        sendmsg(pair[1], &message, 0);
        pause();
    }
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    recvmsg(pair[0], &message, 0);
    int shim = -1;
    if (CMSG_FIRSTHDR(&message)) memcpy(&shim, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof shim);
    attempt("passed on, for the same", 0, privileged, shim);
    attempt("passed on, for another", 0, plain, shim);
    attempt("passed on, for nothing", 0, 0, shim);
    kill(child, 9);
    waitpid(child, 0, 0);
    return 0;
}
