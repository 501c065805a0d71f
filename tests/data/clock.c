/* Preloaded, it adds to the wall clock the seconds in STEP_FILE. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t step(void)
{
    int64_t seconds = 0;
    int fd = open(STEP_FILE, O_RDONLY | O_CLOEXEC);

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
