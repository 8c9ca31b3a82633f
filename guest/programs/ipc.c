/* System V IPC and message queues name processes by their numbers, also such as have ended. */
#define _GNU_SOURCE
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int sem, shm, msg;
static volatile sig_atomic_t sender;

static void change(void) {
    struct sembuf up = {0, 1, 0};
    semop(sem, &up, 1);
    shmdt(shmat(shm, 0, 0));
    struct { long type; char text[1]; } message = {1, "x"};
    msgsnd(msg, &message, 1, 0);
}

static const char *who(pid_t pid, pid_t child) {
    return pid == 0 ? "nobody" : pid == getpid() ? "self" : pid == child ? "child" : "stranger";
}

static void stat_all(const char *when, pid_t child) {
    struct shmid_ds segment;
    struct msqid_ds queue;
    shmctl(shm, IPC_STAT, &segment);
    msgctl(msg, IPC_STAT, &queue);
    printf("%s: sem %s, shm made %s last %s, msg sent %s received %s\n", when, who(semctl(sem, 0, GETPID), child),
        who(segment.shm_cpid, child), who(segment.shm_lpid, child), who(queue.msg_lspid, child), who(queue.msg_lrpid, child));
}

/* The line of an object: fields first and second are processes. */
static void list(const char *path, int id, int first, pid_t child) {
    char line[512];
    FILE *file = fopen(path, "r");
    if (!file) {
        puts("no list");
        return;
    }
    while (fgets(line, sizeof line, file)) {
        long fields[8] = {0};
        int count = 0;
        for (char *word = strtok(line, " \n"); word && count < 8; word = strtok(0, " \n")) fields[count++] = atol(word);
        if (count == 8 && fields[1] == id && fields[0] != 0) printf("%s: %s %s\n", path, who(fields[first], child), who(fields[first + 1], child));
    }
    fclose(file);
}

static void told(int signal, siginfo_t *info, void *context) {
    sender = info->si_pid;
}

static pid_t send_from_child(mqd_t queue) {
    pid_t child = fork();
    if (child == 0) {
        mq_send(queue, "x", 1, 0);
        _exit(0);
    }
    waitpid(child, 0, 0);
    char text[8];
    mq_receive(queue, text, sizeof text, 0);
    return child;
}

static void notices(void) {
    char name[32];
    snprintf(name, sizeof name, "/ipc-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
    mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
    mq_unlink(name);
    struct sigaction action = {.sa_sigaction = told, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    mq_notify(queue, &event);
    pid_t child = send_from_child(queue);
    printf("handler: %s\n", who(sender, child));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    mq_notify(queue, &event);
    child = send_from_child(queue);
    siginfo_t info;
    sigwaitinfo(&set, &info);
    printf("sigwaitinfo: %s\n", who(info.si_pid, child));
    mq_notify(queue, &event);
    child = send_from_child(queue);
    struct signalfd_siginfo record;
    int fd = signalfd(-1, &set, 0);
    printf("signalfd: %s\n", read(fd, &record, sizeof record) == sizeof record ? who(record.ssi_pid, child) : "short");
}

int main(void) {
    key_t key = getpid() | 0x40000000;
    sem = semget(key, 1, IPC_CREAT | 0600);
    shm = shmget(key, 4096, IPC_CREAT | 0600);
    msg = msgget(key, IPC_CREAT | 0600);
    stat_all("new", 0);
    change();
    stat_all("own", 0);
    pid_t child = fork();
    if (child == 0) {
        change();
        _exit(0);
    }
    waitpid(child, 0, 0);
    stat_all("ended child", child);
    list("/proc/sysvipc/shm", shm, 4, child);
    list("/proc/sysvipc/msg", msg, 5, child);
    printf("bad address %d %d\n", shmctl(shm, IPC_STAT, (void *)8), msgctl(msg, IPC_STAT, (void *)8));
    printf("bad object %d %d\n", semctl(-1, 0, GETPID), semctl(sem, 1, GETPID));
    semctl(sem, 0, IPC_RMID);
    shmctl(shm, IPC_RMID, 0);
    msgctl(msg, IPC_RMID, 0);
    fflush(stdout);
    notices();
    return 0;
}
