"""The autoscaler: observes virtual machines, decides how many are needed, makes it so."""
