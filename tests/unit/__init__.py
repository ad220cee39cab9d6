"""Tests of one part at a time, without foreign processes beyond small scripts of their own."""
