"""The architectures of the shipped rewards, one per file; the catalog names them."""
