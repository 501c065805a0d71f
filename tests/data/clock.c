/* Preloaded, it adds to the wall clock the seconds in the file that JOBSUP_TEST_CLOCK names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t step(void)
{
    int64_t seconds = 0;
    const char *path = getenv("JOBSUP_TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        if (read(fd, &seconds, sizeof seconds) != sizeof seconds)
            seconds = 0;
        close(fd);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);

    if (result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += step();
    return result;
}
