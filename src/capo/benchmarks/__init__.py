"""Public benchmarks: prompts, images of every prompt, judges, scores, and the official file layout.

One file per benchmark, one per judge in `judges/`, one line per benchmark in `registry`.
"""
