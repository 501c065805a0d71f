"""The coding agents that the server can run, as data: a fourth is a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

LABEL: Final = "jobsup_mcp.agent"
"""The label of a job that runs an agent; its value is the agent's name."""


class Agent(NamedTuple):
    """How to run one agent without a terminal.

    The prompt is always the last word of its argv, so that it can be read back
    from the job, and nothing that it begins with is ever taken for a flag.
    """

    name: str
    command: tuple[str, ...]
    policies: Mapping[str, tuple[str, ...]]
    """What the agent may do without asking, by name: the flags for it."""
    prompt_flag: str
    """What makes the next word, or the rest of this one (``"--prompt="``), the prompt."""
    stop: str
    """How it is asked to end: most agents save their session on SIGINT."""
    env: tuple[str, ...]
    """Patterns of the variables it needs besides those that every job gets."""

    def argv(self, prompt: str, policy: str) -> list[str]:
        """The command line for *prompt*.

        Raises:
            ValueError: There is no such policy, or the prompt is one that the
                agent would not take as it is.
        """
        if policy not in self.policies:
            known = ", ".join(self.policies)
            raise ValueError(f"unknown approval_policy {policy!r}; it is one of: {known}")
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        if prompt == "-":
            raise ValueError(f"{self.name} takes the prompt '-' for its standard input; use words")
        flag = self.prompt_flag
        words = [flag + prompt] if flag.endswith("=") else [flag, prompt]
        return [*self.command, *self.policies[policy], *words]

    def prompt_of(self, argv: Sequence[str]) -> str:
        """The prompt that `argv` was made of."""
        prefix = self.prompt_flag if self.prompt_flag.endswith("=") else ""
        return argv[-1].removeprefix(prefix)


_NETWORK: Final = ("*_PROXY", "*_proxy", "SSL_CERT_*", "NODE_EXTRA_CA_CERTS")

AGENTS: Final = {
    agent.name: agent
    for agent in (
        Agent(
            name="codex",
            command=("codex", "exec"),
            policies={
                # Its check for a git repository guards edits that could not be
                # undone; where nothing can be written it guards nothing.
                "suggest": ("-s", "read-only", "--skip-git-repo-check"),
                "auto-edit": ("-s", "workspace-write"),
                "full-auto": ("--dangerously-bypass-approvals-and-sandbox",),
            },
            prompt_flag="--",
            stop="INT 5, TERM 10, KILL",
            env=("CODEX_*", "OPENAI_*", *_NETWORK),
        ),
        Agent(
            name="claude",
            command=("claude", "--print"),
            policies={
                "suggest": ("--permission-mode", "plan"),
                "auto-edit": ("--permission-mode", "acceptEdits"),
                "full-auto": ("--dangerously-skip-permissions",),
            },
            prompt_flag="--",
            stop="INT 5, TERM 10, KILL",
            env=("ANTHROPIC_*", "CLAUDE_*", *_NETWORK),
        ),
        Agent(
            name="gemini",
            command=("gemini",),
            policies={
                "suggest": ("--approval-mode", "default"),
                "auto-edit": ("--approval-mode", "auto_edit"),
                "full-auto": ("--approval-mode", "yolo"),
            },
            prompt_flag="--prompt=",
            stop="INT 5, TERM 10, KILL",
            env=("GEMINI_*", "GOOGLE_*", *_NETWORK),
        ),
    )
}
