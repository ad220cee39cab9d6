"""Metrics: two pages for Prometheus, made from the last published facts. Never asks the driver or anybody else."""
