"""Invented patients in the formats that real collections have, with a signal of known strength planted in them.

So that a template can be shown to learn what is there, and no more, where no real data are at hand.
"""
