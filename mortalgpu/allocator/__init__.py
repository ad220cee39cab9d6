"""Which meta-devices a container gets: the policies, the external program, and what a set of ids is worth."""
