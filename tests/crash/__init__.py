"""`kill -9` of real processes at random points of real sessions; see `tests.crash.__main__`."""
