"""The specification: the paper's equations and the weight stream in plain PyTorch."""
