"""The machine: devices, memory, processes, loading of models, seeds, and progress."""
