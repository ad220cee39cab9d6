"""Tests of what is built for people to install: the static binary, the mgctl directory, the image, the packages.

`just test-binary` builds what they look at; a test whose subject was not built skips and says so.
"""
