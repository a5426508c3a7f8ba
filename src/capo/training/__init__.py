"""Fine-tuning the denoiser on pairs: what a step sees, the step, checkpoints and validation."""
