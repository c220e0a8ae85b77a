"""A fuzz target for atheris: whole conversations with a server that says anything."""
