"""What the generator makes of proto/ (packaging/proto.sh writes this directory from scratch; never edit it)."""
