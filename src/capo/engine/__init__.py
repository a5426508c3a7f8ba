"""The machine: devices, memory, processes, seeds, and progress."""
