/* A tree that dies at SIGTERM: forker FIFO COUNT
 *
 * COUNT processes in all, in one group, which say so and sleep.  Each ends by
 * itself in two minutes.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define LIFE_SECONDS 120

static void sleep_on(void)
{
    alarm(LIFE_SECONDS);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    for (int left = atoi(argv[2]) - 1; left > 0; left--) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid == 0)
            sleep_on();
    }
    int fd = open(argv[1], O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "!", 1) != 1)
        return 1;
    close(fd);
    sleep_on();
}
