"""What benchmarks/scoring.py times: the cases, ours and others, and how they are measured."""
