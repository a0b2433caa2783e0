"""Local optimisation: the loop, the device it runs on, the augmentation it sees."""
