"""Stages `prompts` and `generate`: collect prompts and sample images of them, shard by shard."""
