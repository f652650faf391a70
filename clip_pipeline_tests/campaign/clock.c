/* A clock that is as many seconds from the true one as a file says, for the processes that this is preloaded into.

   Only the time of day differs: the monotonic clock is what it is, as when a real clock is put. Waiting until a time of
   day is waiting until a time by this clock. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead_s;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_clock(void)
{
    const char *path = getenv("CAMPAIGN_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    true_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        ahead_s = mapped;
    close(file);
}

static long ahead(void)
{
    return ahead_s ? *ahead_s : 0;
}

static struct timespec in_true_time(const struct timespec *until)
{
    return (struct timespec){until->tv_sec - ahead(), until->tv_nsec};
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!true_clock)
        open_clock();
    int status = true_clock(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    *now = (struct timeval){found.tv_sec, found.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    struct timespec truly = in_true_time(until);
    return sem_clockwait(semaphore, CLOCK_REALTIME, &truly);
}

int pthread_cond_timedwait(
    pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    int is_monotonic = condition->__data.__wrefs & 2; /* as pthread_condattr_setclock had it */
    if (is_monotonic)
        return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
    struct timespec truly = in_true_time(until);
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &truly);
}
