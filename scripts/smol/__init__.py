"""How the layers of the workload smol's students were chosen."""
