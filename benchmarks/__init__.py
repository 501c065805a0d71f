"""What jobsup costs, each figure beside a bare subprocess in the same run."""
