"""Frozen values that cross the walls between MortalGPU's parts; no behaviour beyond arithmetic on their own fields."""
