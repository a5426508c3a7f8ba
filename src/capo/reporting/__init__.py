"""The report of a run: its artifacts gathered, drawn and written as one inert page."""
