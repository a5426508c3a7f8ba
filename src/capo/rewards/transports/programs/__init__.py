"""Programs that score in environments of their own, without capo: nothing here imports it.

Their folder is on the Python path of every program that capo starts.
"""
