/*
 * A tree of processes, grown from its description:  forest TREE TOLD [DEADLINE]
 *
 *     tree    = number letter... [ "(" tree { "," tree } ")" ]
 *
 * The first letter says how a process comes to be: d by a double fork, v by
 * vfork(2) and exec, else by fork(2). The others are done in their order: s
 * setsid, g setpgid, i ignore signals, b block them, r be a subreaper, e exec,
 * c exec with an empty environment. Then its children are made, it tells its
 * pid and its number to the FIFO TOLD, and stays: z stopped, t with threads,
 * l with threads but without the first one; or it does not stay: x.
 * Nothing outlives the deadline: a timer sends SIGKILL.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIFE_SECONDS = 100 };

static struct itimerspec deadline;
static char *self, *told;

static void grow(const char *tree);

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

static const char *end_of(const char *tree)
{
    for (int depth = 0; *tree; tree++) {
        if (*tree == '(')
            depth++;
        else if (depth && *tree == ')')
            depth--;
        else if (!depth && (*tree == ',' || *tree == ')'))
            break;
    }
    return tree;
}

static void become(const char *number, const char *rest, char *environment[])
{
    char *tree, seconds[32];
    char *argv[] = {self, NULL, told, seconds, NULL};

    if (asprintf(&tree, "%d%.*s", atoi(number), (int)(end_of(rest) - rest), rest) < 0)
        fail("asprintf");
    argv[1] = tree;
    sprintf(seconds, "%ld", (long)deadline.it_value.tv_sec);
    execve(self, argv, environment);
    _exit(98);
}

static void plant(const char *tree)
{
    const char *letters = tree + strspn(tree, "0123456789");

    if (*letters == 'd') {
        pid_t between = begin();

        if (between == 0) {
            if (begin() == 0)
                grow(tree);
            _exit(0);
        }
        waitpid(between, NULL, 0);
    } else if (*letters == 'v') {
        if (vfork() == 0)
            become(tree, letters + 1, environ);
    } else if (begin() == 0)
        grow(tree);
}

static void *thread(void *unused)
{
    (void)unused;
    for (;;)
        pause();
    return NULL;
}

static void tell(int number)
{
    char line[32];
    int fd = open(told, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, line, sprintf(line, "%d %d\n", getpid(), number)) < 0)
        fail(told);
    close(fd);
}

static void settle(int number, char how)
{
    pthread_t one;

    if (how == 'x')
        _exit(0);
    for (int count = how == 't' || how == 'l' ? 2 : 0; count; count--)
        if (pthread_create(&one, NULL, thread, NULL))
            fail("pthread_create");
    tell(number);
    if (how == 'l')
        pthread_exit(NULL);
    for (;;)
        if (how == 'z')
            raise(SIGSTOP); /* once more after whoever continued it */
        else
            pause();
}

static void grow(const char *tree)
{
    const char *letter = tree + strspn(tree, "0123456789");
    char how = 0;
    sigset_t all;

    for (; isalpha((unsigned char)*letter); letter++)
        switch (*letter) {
        case 's':
            setsid();
            break;
        case 'g':
            setpgid(0, 0);
            break;
        case 'i':
            for (int number = 1; number < 32; number++)
                if (number != SIGCHLD)
                    signal(number, SIG_IGN);
            break;
        case 'b':
            sigfillset(&all);
            sigprocmask(SIG_SETMASK, &all, NULL);
            break;
        case 'r':
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            break;
        case 'e':
            become(tree, letter + 1, environ);
            break;
        case 'c':
            become(tree, letter + 1, (char *[]){NULL});
            break;
        case 'd': /* by whom it was planted, who has done it */
            break;
        default:
            how = *letter;
        }
    if (*letter == '(')
        do {
            plant(++letter);
            letter = end_of(letter);
        } while (*letter == ',');
    settle(atoi(tree), how);
}

int main(int argc, char *argv[])
{
    if (argc < 3)
        return 2;
    self = argv[0];
    told = argv[2];
    if (argc > 3)
        deadline.it_value.tv_sec = atol(argv[3]);
    else {
        clock_gettime(CLOCK_MONOTONIC, &deadline.it_value);
        deadline.it_value.tv_sec += LIFE_SECONDS;
    }
    live();
    /* Where an x leaves an orphaned group with a z in it, the kernel sends it. */
    signal(SIGHUP, SIG_IGN);
    grow(argv[1]);
}
