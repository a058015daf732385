"""What the worker runs: each job is one call of a service; and the worker and its schedule."""
