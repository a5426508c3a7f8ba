"""The report of a run: its artefacts gathered, drawn and written as one inert page."""
