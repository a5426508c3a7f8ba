"""The embedded world: drawn shapes, prompts about them, an exact judge, and checkpoints trained on them.

It is a plug-in: `pyproject.toml` declares its checkpoints, prompts, rewards, people and judge as entry
points, and only the command line imports it.
"""
