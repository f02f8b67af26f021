"""What runs inside a virtual machine, and how its image is built."""
