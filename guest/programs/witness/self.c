// Who the process is, and what belongs to it besides memory and descriptors.
#include "witness.h"
#include <sys/prctl.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>

struct check identity, state;

enum { THREADS = 3 };
static pid_t pid, parent, group, session, first, bias;
static pthread_t threads[THREADS];

static void *keeps_its_number(void *unused) {
    (void)unused;
    pid_t tid = syscall(SYS_gettid);
    while (!stopping) {
        pid_t now = syscall(SYS_gettid) + bias;
        if (now != tid) fail(&identity, "thread %d is now %d", tid, now);
        if (syscall(SYS_tgkill, pid, tid, 0) != 0) fail(&identity, "thread %d is not there", tid);
        sleep_ms(2);
    }
    return 0;
}

static void identity_start(void) {
    pid = getpid(), parent = getppid(), group = getpgrp(), session = getsid(0), first = syscall(SYS_gettid);
    for (int i = 0; i < THREADS; i++) threads[i] = begin(keeps_its_number, 0);
}

static void identity_tick(void) {
    if (syscall(SYS_getpid) + bias != pid) fail(&identity, "pid %d became %ld", pid, syscall(SYS_getpid) + bias);
    if (syscall(SYS_gettid) != first) fail(&identity, "the first thread's number changed");
    if (getppid() != parent) fail(&identity, "parent %d became %d", parent, getppid());
    if (getpgrp() != group || getpgid(pid) != group) fail(&identity, "group %d became %d", group, getpgrp());
    if (getsid(0) != session) fail(&identity, "session %d became %d", session, getsid(0));
    if (kill(pid, 0) != 0) fail(&identity, "kill(%d, 0): %s", pid, strerror(errno));
}

static void identity_finish(void) {
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
}

static void identity_inject(void) { bias = 1; }

struct check identity = {"identity", identity_start, identity_tick, identity_finish, identity_inject, ""};

// Everything that can be asked for as text, to be compared as one.
struct portrait {
    char directory[400], program[400], arguments[400], name[16];
    mode_t mask;
    struct rlimit files, stack, core;
    int nice, dumpable, persona, on_death, slack, policy;
    void *top;
    unsigned long random;
    uid_t users[3];
    gid_t groups[3];
    sigset_t blocked;
    stack_t alternate;
};
static struct portrait original;

static void read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size);
    if (length < 0) fail(&state, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
}

static void take(struct portrait *p) {
    memset(p, 0, sizeof *p);
    if (!getcwd(p->directory, sizeof p->directory)) fail(&state, "getcwd: %s", strerror(errno));
    (void)!readlink("/proc/self/exe", p->program, sizeof p->program);
    read_text("/proc/self/cmdline", p->arguments, sizeof p->arguments);
    prctl(PR_GET_NAME, p->name);
    p->mask = umask(0);
    umask(p->mask);
    getrlimit(RLIMIT_NOFILE, &p->files);
    getrlimit(RLIMIT_STACK, &p->stack);
    getrlimit(RLIMIT_CORE, &p->core);
    errno = 0;
    p->nice = getpriority(PRIO_PROCESS, 0);
    p->dumpable = prctl(PR_GET_DUMPABLE);
    p->persona = personality(0xffffffff);
    prctl(PR_GET_PDEATHSIG, &p->on_death);
    p->slack = prctl(PR_GET_TIMERSLACK);
    p->policy = syscall(SYS_sched_getscheduler, 0);
    p->top = sbrk(0);
    p->random = getauxval(AT_RANDOM);
    getresuid(&p->users[0], &p->users[1], &p->users[2]);
    getresgid(&p->groups[0], &p->groups[1], &p->groups[2]);
    sigprocmask(SIG_BLOCK, 0, &p->blocked);
    sigaltstack(0, &p->alternate);
}

static void state_start(void) {
    struct rlimit core = {0, 0};
    static char stack[65536];
    stack_t alternate = {stack, 0, sizeof stack};
    setrlimit(RLIMIT_CORE, &core);
    umask(027);
    sigaltstack(&alternate, 0);
    prctl(PR_SET_NAME, "the witness");
    prctl(PR_SET_TIMERSLACK, 40000);
    take(&original);
}

#define SAME(member) \
    if (memcmp(&now.member, &original.member, sizeof now.member)) fail(&state, #member " changed")

static void state_tick(void) {
    if (ticks % 16) return;
    struct portrait now;
    take(&now);
    SAME(directory); SAME(program); SAME(arguments); SAME(name); SAME(mask);
    SAME(files); SAME(stack); SAME(core); SAME(nice); SAME(dumpable); SAME(persona); SAME(on_death);
    SAME(slack); SAME(policy); SAME(random); SAME(users); SAME(groups); SAME(blocked); SAME(alternate);
    if (now.top < original.top) fail(&state, "the break went back");
}

static void state_inject(void) { umask(022); }

struct check state = {"state", state_start, state_tick, 0, state_inject, ""};
