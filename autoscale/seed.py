"""What a cloud image is told at its first boot: cloud-init's NoCloud seed. Pure.

Owns the files of the seed. It must not know where they are kept, or which VM gets one.
https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

import json

from autoscale import iso9660

LABEL = "cidata"
"""By this name of a file system cloud-init knows its seed."""
NOTHING = "#cloud-config\n{}\n"


def image(name: str, uuid: str, user_data: str) -> bytes:
    """A disk with the VM's name, a UUID that makes this its first boot, and the user's own words.

    No network-config: without one cloud-init asks for an address by DHCP on the first card, and
    knows how that is said on each distribution; a file of ours would have to name the card.
    """
    # JSON is YAML, and quotes what needs to be
    facts = {"instance-id": uuid, "local-hostname": name}
    return iso9660.image(
        LABEL,
        {
            "meta-data": (json.dumps(facts) + "\n").encode(),
            "user-data": (user_data or NOTHING).encode(),
        },
    )
