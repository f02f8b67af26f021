"""Tests on real virtual machines, from outside: processes, sockets, libvirt."""
