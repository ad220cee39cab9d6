"""How devices become meta-devices."""
