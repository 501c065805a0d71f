/* Says when it ran: stamp FIFO [MILLISECONDS]
 *
 * Without milliseconds, the time of its first instruction.  With them, it naps
 * that long and says when it exits.  The time is CLOCK_MONOTONIC in ns.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

int main(int argc, char **argv)
{
    int64_t at = now();
    int fd = argc > 1 ? open(argv[1], O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 1;
    if (argc > 2) {
        long ms = strtol(argv[2], NULL, 10);
        struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&nap, NULL);
        at = now();
    }
    _exit(write(fd, &at, sizeof at) != sizeof at);
}
