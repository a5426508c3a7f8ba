"""Stage `evaluate`: images of the compared models, their scores, win-rates, and diversity."""
