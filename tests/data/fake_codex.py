"""Stands in for `codex exec`, as far as a supervisor can tell the two apart.

As the real one it refuses flags that it does not know, reads its standard input
to the end before it begins, starts each of its tools in a session of its own,
and dies of SIGTERM without a word to them. On SIGINT it says so and exits 130.

The prompt says what to do: words, separated by spaces.

    say TEXT        print a line
    lines COUNT     print so many numbered lines
    tool            start a tool that sleeps
    stubborn        ignore SIGINT and SIGTERM from here on
    tell FIFO       write the pids, mine and the tools', into it
    await FIFO      wait until it is opened
    exit CODE       exit
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

LIFE_SECONDS = 100
FLAGS = {
    "-s": {"read-only", "workspace-write", "danger-full-access"},
    "--skip-git-repo-check": None,
    "--dangerously-bypass-approvals-and-sandbox": None,
}


def prompt_of(arguments: list[str]) -> str:
    """What is left after the flags, or exit 2 as the real parser does."""
    assert arguments.pop(0) == "exec"
    while arguments and arguments[0].startswith("-"):
        flag = arguments.pop(0)
        if flag == "--":
            break
        if flag not in FLAGS:
            print(f"error: unexpected argument '{flag}' found", file=sys.stderr)
            sys.exit(2)
        values = FLAGS[flag]
        if values is not None and arguments.pop(0) not in values:
            print(f"error: invalid value for '{flag}'", file=sys.stderr)
            sys.exit(2)
    (prompt,) = arguments
    return prompt


def interrupted(*_: object) -> None:
    os.write(1, b"interrupted\n")
    os._exit(130)


def main() -> None:
    signal.alarm(LIFE_SECONDS)
    signal.signal(signal.SIGINT, interrupted)
    words = prompt_of(sys.argv[1:])
    print("workdir:", os.getcwd(), flush=True)
    if not sys.stdin.isatty():
        print("Reading additional input from stdin...", file=sys.stderr, flush=True)
        sys.stdin.read()
    print("prompt:", words, flush=True)
    pids = [os.getpid()]
    todo = words.split()
    while todo:
        word = todo.pop(0)
        if word == "say":
            print(todo.pop(0), flush=True)
        elif word == "lines":
            for number in range(int(todo.pop(0))):
                print(f"line {number} of what codex writes", flush=True)
        elif word == "tool":
            tool = "import signal; signal.alarm(100); signal.pause()"
            argv = [sys.executable, "-I", "-S", "-c", tool]
            pids.append(subprocess.Popen(argv, start_new_session=True).pid)
        elif word == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif word == "tell":
            with open(todo.pop(0), "w") as fifo:
                fifo.write(" ".join(map(str, pids)) + "\n")
        elif word == "await":
            with open(todo.pop(0)) as fifo:
                fifo.read(1)
        elif word == "exit":
            sys.exit(int(todo.pop(0)))


if __name__ == "__main__":
    main()
