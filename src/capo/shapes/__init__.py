"""The embedded world: drawn shapes, their prompts, an exact judge, and the checkpoints trained on them."""
