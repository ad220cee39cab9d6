"""What enters a container with its grant, and who holds the limit there."""
