"""The revisions, each one step from the one before."""
