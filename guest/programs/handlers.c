// Handlers: alternate stacks, faults and long jumps, one-shot, masks, siginfo, registers.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf out;
static char *stack;
static volatile int count, order[8], nested;
static void *volatile fault_address;

static void say(const char *what, int good) { printf("%-28s %s\n", what, good ? "ok" : "FAILED"); }

static void on_fault(int signal, siginfo_t *info, void *context) {
    char here;
    (void)context;
    fault_address = info->si_addr;
    count = (&here > stack && &here < stack + SIGSTKSZ * 4) ? signal : -signal;
    siglongjmp(out, 1);
}

static int overflow(int depth) { volatile char page[4096]; page[0] = (char)depth; return overflow(depth + 1) + page[0]; }

static void on_usr(int signal, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    sigset_t now;
    sigprocmask(SIG_BLOCK, 0, &now);
    nested = sigismember(&now, signal) && sigismember(&now, SIGUSR2) && !sigismember(&now, SIGTERM)
        && !sigismember(&uc->uc_sigmask, SIGUSR1) && info->si_pid == getpid() && info->si_signo == signal;
    __asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm15, %%xmm15; xor %%r15, %%r15; std; cld" ::: "xmm0", "xmm15", "r15");
}

static void on_order(int signal) { order[count++] = signal; }
static void on_once(int signal) { (void)signal; count++; }
static void change_return(int signal, siginfo_t *info, void *context) {
    (void)signal; (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_R14] = 77;
    sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGWINCH);
}

static void install(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(signal, &action, 0);
}

static void *thread_main(void *arg) { (void)arg; pause(); return 0; }

static int on_stack(void) { stack_t now; sigaltstack(0, &now); return now.ss_flags; }
static volatile int flags_inside;
static void on_flags(int signal) { (void)signal; flags_inside = on_stack(); }

int main(void) {
    stack = mmap(0, SIGSTKSZ * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t alternate = {stack, 0, SIGSTKSZ * 4};
    sigaltstack(&alternate, 0);
    install(SIGSEGV, on_fault, SA_ONSTACK);
    for (int i = 0; i < 1000; i++)
        if (!sigsetjmp(out, 1)) *(volatile int *)0x10 = 1;
    say("fault on alternate stack", count == SIGSEGV && fault_address == (void *)0x10);
    if (!sigsetjmp(out, 1)) overflow(0);
    say("stack overflow", count == SIGSEGV);
    if (!sigsetjmp(out, 1)) raise(SIGSEGV);
    say("sent SIGSEGV", count == SIGSEGV);
    int fds[2];
    char *gone = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)!pipe(fds);
    say("EFAULT from read", read(fds[0], (void *)1, 0) == 0 && syscall(SYS_rt_sigaction, SIGUSR1, gone, 0, 8) == -1 && errno == EFAULT);
    signal(SIGSEGV, SIG_DFL);

    install(SIGUSR1, on_usr, 0);
    double keep = 1.5;
    register double x asm("xmm15") = 2.25;
    register long r asm("r15") = 42;
    __asm__ volatile("" : "+x"(x), "+r"(r));
    kill(getpid(), SIGUSR1);
    __asm__ volatile("" : "+x"(x), "+r"(r));
    say("siginfo and masks", nested);
    say("registers survive", x == 2.25 && r == 42 && keep == 1.5);

    install(SIGUSR1, change_return, 0);
    register long r14 asm("r14") = 5;
    __asm__ volatile("" : "+r"(r14));
    kill(getpid(), SIGUSR1);
    __asm__ volatile("" : "+r"(r14));
    sigset_t now;
    sigprocmask(SIG_BLOCK, 0, &now);
    say("handler changes context", r14 == 77 && sigismember(&now, SIGWINCH));

    struct sigaction once = {0};
    once.sa_handler = on_once;
    once.sa_flags = SA_RESETHAND;
    sigaction(SIGUSR1, &once, 0);
    count = 0;
    raise(SIGUSR1);
    struct sigaction after;
    sigaction(SIGUSR1, 0, &after);
    say("one-shot handler", count == 1 && after.sa_handler == SIG_DFL);

    struct sigaction flags = {0};
    flags.sa_handler = on_flags;
    flags.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &flags, 0);
    raise(SIGUSR1);
    say("sigaltstack flags", flags_inside == SS_ONSTACK && on_stack() == 0);

    sigset_t set, pending;
    sigemptyset(&set);
    for (int s = SIGRTMIN; s < SIGRTMIN + 3; s++) {
        signal(s, on_order);
        sigaddset(&set, s);
    }
    count = 0;
    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval value = {.sival_int = 9};
    for (int s = SIGRTMIN + 2; s >= SIGRTMIN; s--) sigqueue(getpid(), s, value);
    sigpending(&pending);
    say("pending", sigismember(&pending, SIGRTMIN) && sigismember(&pending, SIGRTMIN + 2) && count == 0);
    siginfo_t info;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    say("sigwaitinfo", sigwaitinfo(&one, &info) == SIGRTMIN + 1 && info.si_value.sival_int == 9 && info.si_code == SI_QUEUE && info.si_pid == getpid());
    sigprocmask(SIG_UNBLOCK, &set, 0);
    say("all delivered", count == 2);

    pid_t child = fork();
    if (!child) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, 0);
        signal(SIGSEGV, SIG_DFL);
        pthread_t thread;
        int made = pthread_create(&thread, 0, thread_main, 0) == 0;
        printf("%-28s %s\n", "thread with all blocked", made ? "ok" : "FAILED");
        fflush(stdout);
        *(volatile int *)0 = 0;
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    say("blocked fault kills", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    child = fork();
    if (!child) { signal(SIGSYS, SIG_DFL); kill(getpid(), SIGSYS); _exit(1); }
    waitpid(child, &status, 0);
    say("sent SIGSYS kills", WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    child = fork();
    if (!child) { signal(SIGTERM, SIG_IGN); execlp("sh", "sh", "-c", "kill -TERM $$; exit 5", (char *)0); }
    waitpid(child, &status, 0);
    say("ignored across exec", WIFEXITED(status) && WEXITSTATUS(status) == 5);
    return 0;
}
