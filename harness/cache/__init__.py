"""Teacher caches: what the teacher said, kept so that it runs at most once per workload."""
