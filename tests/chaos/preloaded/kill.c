/* Kills its own process at the N-th write or sync of one SQLite database, and may undo what was not synced.
 *
 * CHAOS_KILL_PATH  the database; its WAL is that name with "-wal"
 * CHAOS_KILL_CALL  sync (fdatasync and fsync of both), wal (writes to the WAL), database (writes to the database)
 * CHAOS_KILL_AT    the number of the call, from 1
 * CHAOS_KILL_HOW   before  the call is not made
 *                  after   the call is made
 *                  torn    half of the write is made, and of a sync nothing
 *                  lost    a power loss: everything since the last sync of each file is undone
 *                  mixed   a power loss: each write since the last sync is kept or undone by chance
 * CHAOS_KILL_SEED  seed of that chance
 *
 * A power loss keeps or undoes whole writes. The creation and removal of files is not undone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATABASE, WAL, OTHER };

typedef struct Change {
    struct Change *before;
    int file, kept;
    off_t at, old_size, new_size;
    size_t old_length, new_length;
    char *old_bytes, *new_bytes;
} Change;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char paths[2][PATH_MAX];
static const char *call_name = "", *how = "";
static long due, seen;
static Change *last;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fdatasync)(int), (*real_fsync)(int), (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void start(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    const char *path = getenv("CHAOS_KILL_PATH");
    if (!path) return;
    snprintf(paths[DATABASE], PATH_MAX, "%s", path);
    snprintf(paths[WAL], PATH_MAX, "%s-wal", path);
    call_name = getenv("CHAOS_KILL_CALL");
    how = getenv("CHAOS_KILL_HOW");
    due = atol(getenv("CHAOS_KILL_AT"));
    srandom((unsigned)atol(getenv("CHAOS_KILL_SEED")));
}

static int file_of(int fd) {
    char link[64], path[PATH_MAX];
    if (!due) return OTHER;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return OTHER;
    path[length] = 0;
    for (int file = DATABASE; file <= WAL; file++)
        if (!strcmp(path, paths[file])) return file;
    return OTHER;
}

static int loses(void) { return !strcmp(how, "lost") || !strcmp(how, "mixed"); }

static void forget(int file) {
    for (Change **place = &last; *place;) {
        Change *change = *place;
        if (change->file == file) {
            *place = change->before;
            free(change->old_bytes);
            free(change->new_bytes);
            free(change);
        } else
            place = &change->before;
    }
}

/* What a change will overwrite. Read through SQLite's own descriptor: closing another one would drop SQLite's locks. */
static void remember(int fd, int file, off_t at, const void *bytes, size_t length, off_t new_size) {
    struct stat state;
    if (!loses() || fstat(fd, &state)) return;
    if (!state.st_size) forget(file); /* A new file under an old name. */
    Change *change = calloc(1, sizeof *change);
    change->file = file;
    change->at = at;
    change->old_size = state.st_size;
    change->new_size = new_size >= 0 ? new_size : at + (off_t)length > state.st_size ? at + (off_t)length : state.st_size;
    if (bytes) {
        change->new_length = length;
        change->new_bytes = memcpy(malloc(length), bytes, length);
    }
    off_t from = bytes ? at : new_size, until = bytes ? at + (off_t)length : state.st_size;
    if (until > state.st_size) until = state.st_size;
    if (until > from) {
        change->at = from;
        change->old_bytes = malloc((size_t)(until - from));
        ssize_t length_read = pread(fd, change->old_bytes, (size_t)(until - from), from);
        change->old_length = length_read > 0 ? (size_t)length_read : 0;
    }
    change->before = last;
    last = change;
}

static void make(int own, off_t at, const char *bytes, size_t length, off_t size) {
    if (bytes && length && real_pwrite(own, bytes, length, at) != (ssize_t)length) abort();
    if (real_ftruncate(own, size)) abort();
}

static void redo(Change *change, int own, int file) {
    if (!change) return;
    redo(change->before, own, file);
    if (change->file != file || !change->kept) return;
    struct stat state;
    if (fstat(own, &state)) abort();
    off_t grown = change->at + (off_t)change->new_length;
    off_t size = change->new_bytes ? (grown > state.st_size ? grown : state.st_size) : change->new_size;
    make(own, change->at, change->new_bytes, change->new_length, size);
}

static void lose_power(void) {
    int mixed = !strcmp(how, "mixed");
    for (int file = DATABASE; file <= WAL; file++) {
        int own = open(paths[file], O_RDWR | O_CLOEXEC);
        if (own < 0) continue;
        for (Change *change = last; change; change = change->before)
            if (change->file == file) {
                change->kept = mixed && random() % 2;
                make(own, change->at, change->old_bytes, change->old_length, change->old_size);
            }
        redo(last, own, file);
        close(own);
    }
}

static void die(void) {
    if (loses()) lose_power();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts a call; whether it is the N-th one. */
static int is_due(const char *name) { return due && !strcmp(name, call_name) && ++seen == due; }

static ssize_t written(int fd, const void *bytes, size_t length, off_t at, int positioned) {
    int file = file_of(fd);
    if (file == OTHER) return positioned ? real_pwrite(fd, bytes, length, at) : real_write(fd, bytes, length);
    pthread_mutex_lock(&lock);
    if (!positioned) at = lseek(fd, 0, SEEK_CUR);
    int now = is_due(file == WAL ? "wal" : "database");
    if (now && !strcmp(how, "before")) die();
    if (now && !strcmp(how, "torn")) length /= 2;
    remember(fd, file, at, bytes, length, -1);
    ssize_t answer = positioned ? real_pwrite(fd, bytes, length, at) : real_write(fd, bytes, length);
    if (now) die();
    pthread_mutex_unlock(&lock);
    return answer;
}

static int synced(int fd, int (*real)(int)) {
    int file = file_of(fd);
    if (file == OTHER) return real(fd);
    pthread_mutex_lock(&lock);
    int now = is_due("sync");
    if (now && strcmp(how, "after")) die();
    int answer = real(fd);
    if (now) die();
    if (!answer) forget(file);
    pthread_mutex_unlock(&lock);
    return answer;
}

ssize_t write(int fd, const void *bytes, size_t length) { return written(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return written(fd, bytes, length, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return written(fd, bytes, length, at, 1); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }
int fsync(int fd) { return synced(fd, real_fsync); }

int ftruncate64(int fd, off64_t size) {
    int file = file_of(fd);
    if (file == OTHER) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    remember(fd, file, size, NULL, 0, size);
    int answer = real_ftruncate(fd, size);
    pthread_mutex_unlock(&lock);
    return answer;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
