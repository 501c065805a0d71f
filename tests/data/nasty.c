/*
 * Trees of processes that are hard to kill:  nasty MODE COUNT TOLD OPENED
 *
 * Each process of a tree writes its pid as a line to the FIFO TOLD once it is
 * where it should be. The command stays; if OPENED is not empty it waits for a
 * byte there and exits with 7. Nothing outlives the deadline set at the start,
 * whatever it blocks, ignores or is stopped by: a timer sends SIGKILL.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIFE_SECONDS = 100 };

static struct itimerspec deadline;
static const char *self, *told;

static void fail(const char *what)
{
    perror(what);
    _exit(99);
}

static void live(void)
{
    struct sigevent kill = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    timer_t timer;

    if (timer_create(CLOCK_MONOTONIC, &kill, &timer) ||
        timer_settime(timer, TIMER_ABSTIME, &deadline, NULL))
        fail("timer");
}

static pid_t begin(void)
{
    pid_t pid = fork();

    if (pid < 0)
        fail("fork");
    if (pid == 0)
        live(); /* fork(2) hands down no timer */
    return pid;
}

static void tell(void)
{
    char line[32];
    int fd = open(told, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, line, sprintf(line, "%d\n", getpid())) < 0)
        fail(told);
    close(fd);
}

static void sleep_on(void)
{
    for (;;)
        pause();
}

static void stay(void)
{
    tell();
    sleep_on();
}

static void ignore_all(void)
{
    for (int number = 1; number < 32; number++)
        if (number != SIGCHLD)
            signal(number, SIG_IGN);
}

static void block_all(void)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

static void become_stayer(char *environment[])
{
    char seconds[32];
    char *argv[] = {(char *)self, "stay", seconds, (char *)told, "", NULL};

    sprintf(seconds, "%ld", (long)deadline.it_value.tv_sec);
    execve(self, argv, environment ? environment : environ);
    _exit(98);
}

static void double_fork(void)
{
    pid_t between = begin();

    if (between == 0) {
        setsid();
        if (begin() == 0)
            stay();
        _exit(0);
    }
    waitpid(between, NULL, 0);
}

static void new_session(void)
{
    if (begin() == 0) {
        setsid();
        stay();
    }
}

static void cleared(void)
{
    if (begin() == 0) {
        setsid();
        become_stayer((char *[]){NULL});
    }
}

static void escaped(void)
{
    pid_t between = begin();

    if (between == 0) {
        setsid();
        if (begin() == 0)
            become_stayer((char *[]){NULL});
        _exit(0);
    }
    waitpid(between, NULL, 0);
}

static void stubborn(void)
{
    ignore_all();
    if (begin() == 0)
        stay();
}

static void blocked(void)
{
    block_all();
    if (begin() == 0)
        stay();
}

static void stopped(void)
{
    pid_t child = begin();

    if (child == 0) {
        tell();
        raise(SIGSTOP);
        sleep_on();
    }
    waitpid(child, NULL, WUNTRACED);
}

static void parent_first(void)
{
    if (begin() == 0) {
        if (begin() == 0)
            stay();
        _exit(0); /* a zombie that nobody waits for */
    }
}

/*
 * Each generation lives a millisecond; every second chain changes its session
 * each time. Without TOLD they end: nobody could catch them for a failed test.
 */
static void chains(int count)
{
    for (int chain = 0; chain < count; chain++) {
        if (begin())
            continue;
        ignore_all();
        for (int generation = 0;; generation++) {
            if (generation == 20)
                tell();
            usleep(1000);
            if (chain % 2)
                setsid();
            if (access(told, F_OK) || begin())
                _exit(0);
        }
    }
}

static void children(int count)
{
    while (count--)
        if (begin() == 0)
            sleep_on();
}

static void vforked(void)
{
    if (vfork() == 0)
        become_stayer(NULL);
}

static void *thread(void *unused)
{
    (void)unused;
    sleep_on();
    return NULL;
}

/* The first thread is gone, and shows as a zombie, but the process lives. */
static void lose_leader(void)
{
    pthread_t one;

    for (int count = 0; count < 3; count++)
        if (pthread_create(&one, NULL, thread, NULL))
            fail("pthread_create");
    tell();
    pthread_exit(NULL);
}

static void leaderless(void)
{
    if (begin() == 0)
        lose_leader();
}

/* As some agents run their tools: a session for each, with a tree of its own below. */
static void sessions(int count)
{
    while (count--)
        if (begin() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            if (begin() == 0) {
                setpgid(0, 0);
                stay();
            }
            stay();
        }
}

/* Its end raises no SIGCHLD, and only __WALL waits for it. */
static void silent(void)
{
    pid_t pid = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);

    if (pid < 0)
        fail("clone");
    if (pid == 0) {
        live();
        stay();
    }
}

/* Takes in orphans itself, and reaps none. */
static void hoarder(int count)
{
    if (begin() == 0) {
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        signal(SIGTERM, SIG_IGN);
        while (count--)
            double_fork();
        stay();
    }
}

int main(int argc, char *argv[])
{
    if (argc != 5)
        return 2;
    const char *mode = argv[1], *opened = argv[4];
    int count = atoi(argv[2]);

    self = argv[0];
    told = argv[3];
    clock_gettime(CLOCK_MONOTONIC, &deadline.it_value);
    if (strcmp(mode, "stay") == 0) {
        if (count) /* the deadline of who executed us */
            deadline.it_value.tv_sec = count;
        else
            deadline.it_value.tv_sec += LIFE_SECONDS;
        live();
        stay();
    }
    deadline.it_value.tv_sec += LIFE_SECONDS;
    live();

    static const struct {
        const char *name;
        void (*plain)(void);
        void (*counted)(int);
    } modes[] = {
        {"double-fork", double_fork, NULL}, {"setsid", new_session, NULL},
        {"cleared", cleared, NULL},         {"escaped", escaped, NULL},
        {"stubborn", stubborn, NULL},       {"blocked", blocked, NULL},
        {"stopped", stopped, NULL},         {"parent-first", parent_first, NULL},
        {"chains", NULL, chains},           {"children", NULL, children},
        {"vfork", vforked, NULL},           {"leaderless", leaderless, NULL},
        {"sessions", NULL, sessions},       {"silent", silent, NULL},
        {"hoarder", NULL, hoarder},
    };
    size_t index = 0;

    while (strcmp(modes[index].name, mode))
        if (++index == sizeof modes / sizeof *modes)
            return 2;
    if (modes[index].plain)
        modes[index].plain();
    else
        modes[index].counted(count);
    tell();
    if (*opened) {
        char byte;
        int fd = open(opened, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || read(fd, &byte, 1) < 0)
            fail(opened);
        _exit(7);
    }
    sleep_on();
}
