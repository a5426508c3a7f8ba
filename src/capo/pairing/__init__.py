"""Stage `pair`: calibration of scores, selection of chosen and rejected samples, and labels."""
