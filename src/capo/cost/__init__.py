"""The cost of a run: `plan` computes it before the run, `bench` measures it on this machine."""
