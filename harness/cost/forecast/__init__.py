"""What a workload takes, before anything is run: operations, hours, memory and disk."""
