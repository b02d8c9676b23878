"""What runs beside a method's code, in a process of its own: it is told what the track grants, and nothing else."""
