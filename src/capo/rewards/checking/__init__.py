"""`capo rewards check`: try a reward on images and report violations of the protocol."""
