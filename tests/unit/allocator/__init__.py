"""Which meta-devices a container gets."""
