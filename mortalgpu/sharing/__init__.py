"""How devices become meta-devices: which entry takes a device, into how many shares, under which ids, and since when.

Pure decisions: settings and facts arrive as arguments, and the results are `model` values.
"""
