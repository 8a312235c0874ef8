"""The exhibits of Keskar et al. 2017, each from the results folder of its study."""
