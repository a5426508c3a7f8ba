"""The weights of shipped rewards: location, identity, loading, and how to download them."""
