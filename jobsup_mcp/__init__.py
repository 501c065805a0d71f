"""Jobs as MCP tools, resources and tasks, and coding agents as jobs."""


def main() -> None:
    """Serve until the client goes away; the command line says how."""
    from jobsup_mcp.command import run  # noqa: PLC0415 - `import jobsup_mcp` is to cost nothing

    run()


__all__ = ["main"]
