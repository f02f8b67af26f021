"""Disk images of the user's own, looked at before a machine boots from one."""
