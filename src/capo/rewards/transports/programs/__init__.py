"""Programs that score in environments of their own, where capo is not installed: nothing here imports it.

The folder is on the Python path of every program that capo starts.
"""
