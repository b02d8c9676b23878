"""Pipelines that train the same network side by side: the parts of `benchmarks/train.py`."""
