/*
 * A command whose end is known for sure:  truth FILE CODE DELAY POLITE OPENED
 *
 * Waits for a byte from the FIFO OPENED and DELAY microseconds more, then
 * writes CODE to FILE and exits with it. With POLITE of 1 it exits so, but with
 * CODE + 1, on SIGTERM too. All signals are blocked from before the file is
 * written to the end: if there is a FILE it tells the exit code, and if there
 * is none the command died of a signal.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static int code;

static void leave(int with)
{
    char text[16];
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, sprintf(text, "%d", with)) < 0)
        _exit(99);
    _exit(with);
}

static void on_term(int number)
{
    (void)number;
    leave(code + 1);
}

int main(int argc, char *argv[])
{
    char byte;

    alarm(60);
    if (argc != 6)
        return 2;
    path = argv[1];
    code = atoi(argv[2]);
    if (atoi(argv[4]))
        signal(SIGTERM, on_term);
    int fd = open(argv[5], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &byte, 1) != 1)
        return 98;
    struct timespec delay = {0, atol(argv[3]) * 1000};
    nanosleep(&delay, NULL);
    leave(code);
}
