"""What stands between HTTP and the services: who asks, what is allowed, how answers look."""
