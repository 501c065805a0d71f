/* The least that conmon can run: an OCI runtime whose "create" executes a command, no container.
 *
 * conmon calls it as: runtime [global options] create --bundle B --pid-file P ID
 * The command's words are lines of B/argv.  It returns once the command was executed, as
 * start() and Popen do: a pipe that exec(2) closes tells.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char text[4096];
static char *words[64];

static int read_words(const char *bundle)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/argv", bundle);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
        return -1;
    close(fd);
    int count = 0;
    for (char *word = strtok(text, "\n"); word && count < 63; word = strtok(NULL, "\n"))
        words[count++] = word;
    return count;
}

int main(int argc, char **argv)
{
    const char *bundle = NULL, *pid_file = NULL;
    for (int i = 1; i + 1 < argc; i++) {
        if (!strcmp(argv[i], "--bundle"))
            bundle = argv[i + 1];
        if (!strcmp(argv[i], "--pid-file"))
            pid_file = argv[i + 1];
    }
    int ends[2];
    if (!bundle || !pid_file || read_words(bundle) < 1 || pipe2(ends, O_CLOEXEC))
        return 1;
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        execvp(words[0], words);
        (void)!write(ends[1], "!", 1);
        _exit(127);
    }
    close(ends[1]);
    char failed;
    if (pid < 0 || read(ends[0], &failed, 1) != 0)
        return 1;
    FILE *file = fopen(pid_file, "w");
    if (!file || fprintf(file, "%d", pid) < 0 || fclose(file))
        return 1;
    return 0;
}
