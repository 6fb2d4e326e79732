"""Who trains the units of a sweep: processes on this machine, a Ray cluster, a Slurm array, a Kubernetes job."""
