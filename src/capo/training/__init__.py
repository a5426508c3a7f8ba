"""Fine-tuning of the denoiser on pairs: batches, the step, the loop, checkpoints, and validation."""
