"""What jobsup costs, each figure beside a peer or a baseline in the same run."""
