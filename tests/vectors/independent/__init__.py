"""A second implementation of the protocol, for checking vectors only. See ../README.md."""
