// Open files: offsets, contents, what is appended, what is deleted; and which descriptors there are.
#include "witness.h"
#include <dirent.h>
#include <sys/stat.h>

struct check files, descriptors;

static int written, same, reader, appended, deleted;
static uint64_t records, taken;

static int fresh(const char *name, int flags) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
    need(fd >= 0, name);
    return fd;
}

static void files_start(void) {
    static char name[4][80];
    for (int i = 0; i < 4; i++) snprintf(name[i], sizeof name[i], "witness-%d-%d", getpid(), i);
    written = fresh(name[0], 0);
    same = dup(written);
    reader = open(name[0], O_RDONLY);
    appended = fresh(name[1], O_APPEND);
    deleted = fresh(name[2], 0);
    need(same >= 0 && reader >= 0, "descriptors");
    // The others keep their names until the end: a file with a name can be opened again elsewhere.
    unlink(name[2]);
}

static void at(const char *what, int fd, uint64_t expected) {
    off_t now = lseek(fd, 0, SEEK_CUR);
    if (now != (off_t)expected) fail(&files, "%s: offset %ld, not %ld", what, (long)now, (long)expected);
}

static void put(const char *what, int fd, uint64_t record) {
    ssize_t length = write(fd, &record, sizeof record);
    if (length != sizeof record) fail(&files, "%s: wrote %zd: %s", what, length, strerror(errno));
}

static void files_tick(void) {
    static uint64_t random = 1;
    uint64_t record, size = sizeof record;
    at("file", written, records * size);
    at("its duplicate", same, records * size);
    put("file", records % 2 ? written : same, records);
    put("log", appended, records);
    put("deleted file", deleted, records);
    records++;
    if (records % 4 == 0) {
        at("reader", reader, taken * size);
        ssize_t length = read(reader, &record, sizeof record);
        if (length != sizeof record || record != taken++) fail(&files, "read a wrong record");
    }
    uint64_t some = next_random(&random) % records;
    int fd = records % 3 ? deleted : appended;
    if (pread(fd, &record, sizeof record, some * size) != sizeof record || record != some)
        fail(&files, "record %lu is %lu", (long)some, (long)record);
}

static void files_finish(void) {
    struct stat s;
    if (fstat(appended, &s) || s.st_size != (off_t)(records * sizeof records))
        fail(&files, "the log has %ld bytes, not %ld", (long)s.st_size, (long)(records * sizeof records));
    char name[80];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "witness-%d-%d", getpid(), i);
        if (unlink(name)) fail(&files, "%s: %s", name, strerror(errno));
    }
}

static void files_inject(void) { lseek(same, -8, SEEK_CUR); }

struct check files = {"files", files_start, files_tick, files_finish, files_inject, ""};

// What can be said of a descriptor. Device numbers are left out: they are each node's own.
struct face { bool open; mode_t mode; ino_t file; int status, flags; };
enum { NUMBERS = 256 };
static struct face faces[NUMBERS];

static int look(struct face *all) {
    memset(all, 0, NUMBERS * sizeof *all);
    DIR *list = opendir("/proc/self/fd");
    need(list != 0, "/proc/self/fd");
    int count = 0;
    for (struct dirent *entry; (entry = readdir(list));) {
        int fd = atoi(entry->d_name);
        struct stat s;
        if (*entry->d_name == '.' || fd == dirfd(list) || fd >= NUMBERS || fstat(fd, &s)) continue;
        all[fd] = (struct face){true, s.st_mode, s.st_ino, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD)};
        count++;
    }
    closedir(list);
    return count;
}

// The other checks' threads open and close files: those that were there before must stay as they are.
static void descriptors_start(void) { need(look(faces) > 10, "descriptors"); }

static void descriptors_tick(void) {
    if (ticks % 32) return;
    static struct face now[NUMBERS];
    look(now);
    for (int fd = 0; fd < NUMBERS; fd++) {
        struct face *was = &faces[fd], *is = &now[fd];
        if (was->open && !is->open) fail(&descriptors, "descriptor %d is gone", fd);
        if (!was->open || !is->open) continue;
        if (was->mode != is->mode) fail(&descriptors, "descriptor %d: mode %o became %o", fd, was->mode, is->mode);
        if (was->file != is->file) fail(&descriptors, "descriptor %d: another inode", fd);
        if (was->status != is->status || was->flags != is->flags)
            fail(&descriptors, "descriptor %d: flags %o/%d became %o/%d", fd, was->status, was->flags, is->status, is->flags);
    }
}

static void descriptors_inject(void) { fcntl(appended, F_SETFD, 0); }

struct check descriptors = {"descriptors", descriptors_start, descriptors_tick, 0, descriptors_inject, ""};
