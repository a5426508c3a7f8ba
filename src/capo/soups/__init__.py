"""Soups: several policies merged into one, as adapters or as full models."""
