"""Where tasks are computed: a pool of processes on this machine."""
