/* Shifts the wall clock of one process by an offset that another process writes. Monotonic clocks are not shifted.
 *
 * CHAOS_CLOCK names a file of eight bytes: the offset in nanoseconds. Clock id 4242 is the true wall clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define TRUE_CLOCK 4242
#define SECOND 1000000000LL

static const volatile int64_t *offset_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) offset_ns = page;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (id == TRUE_CLOCK) return real_clock_gettime(CLOCK_REALTIME, at);
    int answer = real_clock_gettime(id, at);
    if (answer || !offset_ns || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return answer;
    int64_t ns = at->tv_sec * SECOND + at->tv_nsec + *offset_ns;
    at->tv_sec = ns / SECOND;
    at->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
