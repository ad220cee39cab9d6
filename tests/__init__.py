"""Tests of MortalGPU, and the harnesses they share."""
