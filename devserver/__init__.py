"""What `make run` starts: all of Keystay on one developer's machine, never in production."""
