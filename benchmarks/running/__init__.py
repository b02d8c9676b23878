"""What `benchmarks/runner.py` measures with: tasks that do next to nothing, and processes that are timed."""
