"""Programs and libraries that stand in for parts of the outside world in tests."""
