"""The routes, one file a noun: each translates, calls once and answers."""
