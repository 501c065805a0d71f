/*
 * A set-uid root program that its caller cannot signal:  survivor TOLD OPENED
 *
 * Tells its pid to the FIFO TOLD, and ends when the FIFO OPENED is, after
 * twenty seconds at the latest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
    char line[32], byte;
    int fd;

    alarm(20);
    if (argc != 3 || setresuid(0, 0, 0))
        return 2;
    fd = open(argv[1], O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, line, sprintf(line, "%d\n", getpid())) < 0)
        return 3;
    close(fd);
    fd = open(argv[2], O_RDONLY | O_CLOEXEC);
    return fd < 0 || read(fd, &byte, 1) < 0;
}
