"""Text and facts of the project itself, read by the demo and the tests."""
