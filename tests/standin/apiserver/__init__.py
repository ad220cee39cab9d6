"""A scripted stand-in for the Kubernetes API server: pods by list and watch, Events, and every way of failing on command."""
