"""Merging saved policies: LoRA adapters exactly, full pipelines one tensor at a time."""
