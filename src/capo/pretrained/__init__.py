"""What is needed wherever a published model is loaded: access to it, its packages, sound weights."""
