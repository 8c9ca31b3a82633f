// ptrace(2) by itself: prints what a tracer sees. The output is the same with and without the fabric.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/reg.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long word = 1;
static volatile sig_atomic_t seen;

static void handler(int number) { seen = number; }

static long trace(long request, pid_t pid, uintptr_t address, uintptr_t data) {
    return syscall(SYS_ptrace, request, pid, address, data);
}

static int next_stop(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, __WALL) != pid) { perror("waitpid"); exit(1); }
    return status;
}

static void say_status(const char *what, int status) {
    if (WIFEXITED(status)) printf("%s: exit %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status)) printf("%s: killed %d\n", what, WTERMSIG(status));
    else printf("%s: stop %d event %d\n", what, WSTOPSIG(status), status >> 16);
}

static long reg(pid_t pid, int index) {
    return ptrace(PTRACE_PEEKUSER, pid, index * sizeof(long), 0);
}

// A child that asks to be traced, and stops.
static pid_t child(void (*body)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid) return pid;
    if (trace(PTRACE_TRACEME, 0, 0, 0)) _exit(90);
    raise(SIGSTOP);
    body();
    _exit(0);
}

static void body_calls(void) {
    char byte;
    int ends[2];
    long parent = syscall(SYS_getppid);
    long skipped = syscall(SYS_getuid);
    pipe(ends);
    write(ends[1], "x", 1);
    read(ends[0], &byte, 1);
    _exit(parent == 4242 && skipped == 77 && byte == 'x' && word == 5 ? 11 : 12);
}

// Entries and exits; results that the tracer changes.
static void calls(void) {
    pid_t pid = child(body_calls);
    say_status("calls", next_stop(pid));
    printf("options %ld\n", trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    errno = 0;
    printf("peek %ld\n", ptrace(PTRACE_PEEKDATA, pid, &word, 0));
    printf("poke %ld\n", trace(PTRACE_POKEDATA, pid, (uintptr_t)&word, 5));
    printf("wild %ld", ptrace(PTRACE_PEEKDATA, pid, 8, 0));
    printf(" %d\n", errno == EIO);
    int entering = 1, status;
    for (;;) {
        trace(PTRACE_SYSCALL, pid, 0, 0);
        status = next_stop(pid);
        if (!WIFSTOPPED(status)) break;
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) { say_status("other", status); continue; }
        struct user_regs_struct regs;
        struct iovec range = {&regs, sizeof regs};
        trace(PTRACE_GETREGSET, pid, 1, (uintptr_t)&range);
        if (range.iov_len != sizeof regs) printf("short %zu\n", range.iov_len);
        long number = regs.orig_rax;
        struct __ptrace_syscall_info info;
        trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (uintptr_t)&info);
        if (info.op != (entering ? PTRACE_SYSCALL_INFO_ENTRY : PTRACE_SYSCALL_INFO_EXIT)) printf("op %d\n", info.op);
        if (entering) {
            printf("enter %ld %d\n", number, (long)regs.rax == -ENOSYS);
            if (number == SYS_getuid) {
                regs.orig_rax = -1;
                trace(PTRACE_SETREGS, pid, 0, (uintptr_t)&regs);
            }
        } else {
            int is_plain = number == SYS_read || number == SYS_write || number == SYS_pipe;
            if (is_plain) printf("exit %ld = %ld\n", number, (long)regs.rax);
            if (number == SYS_getppid) ptrace(PTRACE_POKEUSER, pid, RAX * sizeof(long), 4242);
            if (number == -1) ptrace(PTRACE_POKEUSER, pid, RAX * sizeof(long), 77);
        }
        entering = !entering;
    }
    say_status("calls", status);
}

static void body_signals(void) {
    signal(SIGUSR1, handler);
    signal(SIGUSR2, handler);
    raise(SIGUSR1);
    int first = seen;
    raise(SIGUSR1);
    _exit(first * 16 + seen);
}

// A signal that is dropped, and one that becomes another.
static void signals(void) {
    pid_t pid = child(body_signals);
    next_stop(pid);
    siginfo_t info;
    trace(PTRACE_CONT, pid, 0, 0);
    say_status("signals", next_stop(pid));
    printf("siginfo %ld", trace(PTRACE_GETSIGINFO, pid, 0, (uintptr_t)&info));
    printf(" %d %d\n", info.si_signo, info.si_code == SI_TKILL && info.si_pid == pid);
    trace(PTRACE_CONT, pid, 0, 0);
    say_status("signals", next_stop(pid));
    trace(PTRACE_CONT, pid, 0, SIGUSR2);
    say_status("signals", next_stop(pid));
}

static void body_births(void) {
    int status;
    if (fork() == 0) _exit(3);
    wait(&status);
    if (vfork() == 0) _exit(4);
    wait(&status);
    execl("/bin/true", "true", NULL);
    _exit(9);
}

// Children and programs, with their events.
static void births(void) {
    pid_t pid = child(body_births);
    next_stop(pid);
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT);
    for (int ends = 0; ends < 3;) {
        trace(PTRACE_CONT, pid, 0, 0);
        int status = next_stop(pid);
        if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGCHLD) continue;
        say_status("parent", status);
        unsigned long message = 0;
        switch (status >> 16) {
        case PTRACE_EVENT_FORK:
        case PTRACE_EVENT_VFORK:
            trace(PTRACE_GETEVENTMSG, pid, 0, (uintptr_t)&message);
            say_status("child", next_stop(message));
            trace(PTRACE_CONT, message, 0, 0);
            say_status("child", next_stop(message));
            trace(PTRACE_CONT, message, 0, 0);
            say_status("child", next_stop(message));
            ends++;
            break;
        case PTRACE_EVENT_EXIT:
            trace(PTRACE_GETEVENTMSG, pid, 0, (uintptr_t)&message);
            printf("message %lx\n", message);
            break;
        case PTRACE_EVENT_EXEC:
            trace(PTRACE_GETEVENTMSG, pid, 0, (uintptr_t)&message);
            printf("message %d\n", message == (unsigned long)pid);
            break;
        }
        if (!WIFSTOPPED(status)) ends++;
    }
}

static void body_steps(void) {
    for (volatile int i = 0; i < 3; i++) syscall(SYS_getppid);
    __asm__ volatile("int3");
    _exit(6);
}

// Single steps over calls, and a breakpoint.
static void steps(void) {
    pid_t pid = child(body_steps);
    next_stop(pid);
    int steps = 0, calls = 0, status;
    for (;;) {
        long rip = reg(pid, RIP);
        if ((ptrace(PTRACE_PEEKTEXT, pid, rip, 0) & 0xffff) == 0x050f && reg(pid, RAX) == SYS_getppid) calls++;
        trace(PTRACE_SINGLESTEP, pid, 0, 0);
        status = next_stop(pid);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP || steps > 1000000) break;
        siginfo_t info;
        trace(PTRACE_GETSIGINFO, pid, 0, (uintptr_t)&info);
        if (info.si_code == SI_KERNEL) break;
        steps++;
    }
    printf("steps %d calls %d\n", steps > 10, calls);
    say_status("steps", status);
    trace(PTRACE_CONT, pid, 0, 0);
    say_status("steps", next_stop(pid));
}

// Attaching to what runs and waits.
static void attaching(void) {
    int ends[2], status;
    char byte;
    pipe(ends);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGUSR1, handler);
        long got = read(ends[0], &byte, 1);
        _exit(got == 1 ? byte : 1);
    }
    usleep(50000);
    printf("seize %ld\n", trace(PTRACE_SEIZE, pid, 0, 0));
    printf("again %ld", trace(PTRACE_SEIZE, pid, 0, 0));
    printf(" %d\n", errno == EPERM);
    printf("running %ld", trace(PTRACE_CONT, pid, 0, 0));
    printf(" %d\n", errno == ESRCH);
    printf("none %d\n", waitpid(pid, &status, WNOHANG | __WALL));
    printf("interrupt %ld\n", trace(PTRACE_INTERRUPT, pid, 0, 0));
    say_status("seized", next_stop(pid));
    printf("orig_rax %ld\n", reg(pid, ORIG_RAX));
    trace(PTRACE_CONT, pid, 0, 0);
    kill(pid, SIGSTOP);
    say_status("stop", next_stop(pid));
    trace(PTRACE_CONT, pid, 0, SIGSTOP);
    say_status("group", next_stop(pid));
    printf("listen %ld\n", trace(PTRACE_LISTEN, pid, 0, 0));
    kill(pid, SIGCONT);
    say_status("end of group", next_stop(pid));
    trace(PTRACE_CONT, pid, 0, 0);
    say_status("continue", next_stop(pid));
    printf("detach %ld\n", trace(PTRACE_DETACH, pid, 0, SIGCONT));
    printf("attach %ld\n", trace(PTRACE_ATTACH, pid, 0, 0));
    say_status("attached", next_stop(pid));
    siginfo_t info;
    memset(&info, 0, sizeof info);
    printf("siginfo %ld", trace(PTRACE_GETSIGINFO, pid, 0, (uintptr_t)&info));
    printf(" %d\n", info.si_signo);
    trace(PTRACE_CONT, pid, 0, 0);
    write(ends[1], "*", 1);
    say_status("end", next_stop(pid));
    printf("gone %ld", trace(PTRACE_SEIZE, pid, 0, 0));
    printf(" %d\n", errno == ESRCH);
}

// A tracer that ends: its tracees go on, or die with it.
static void endings(void) {
    int ends[2], status;
    char byte;
    for (long options = 0; options <= PTRACE_O_EXITKILL; options += PTRACE_O_EXITKILL) {
        pipe(ends);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            close(ends[1]);
            read(ends[0], &byte, 1);
            _exit(21);
        }
        pid_t tracer = fork();
        if (tracer == 0) _exit(trace(PTRACE_SEIZE, pid, 0, options) != 0);
        waitpid(tracer, &status, 0);
        say_status("tracer", status);
        if (options == 0) close(ends[1]);
        waitpid(pid, &status, 0);
        say_status("tracee", status);
        if (options) close(ends[1]);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    alarm(20);
    calls();
    signals();
    births();
    steps();
    attaching();
    endings();
    return 0;
}
