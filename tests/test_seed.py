"""What cloud-init is told: names that are the machine's own, and the user's words as they are."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from autoscale import seed
from tests.test_iso9660 import entries, volume


@given(st.text(max_size=300))
def test_the_seed_names_the_machine_and_carries_the_users_words(text: str) -> None:
    data = seed.image("web-3f9a11", "b5a4b7a6-0000-4000-8000-000000000001", text)
    assert volume(data)[0] == "cidata", "cloud-init knows it by this label"
    files = entries(data)
    assert set(files) == {"META-DATA.;1", "USER-DATA.;1"}
    assert json.loads(files["META-DATA.;1"]) == {
        "instance-id": "b5a4b7a6-0000-4000-8000-000000000001",
        "local-hostname": "web-3f9a11",
    }
    assert files["USER-DATA.;1"].decode() == (text or seed.NOTHING)
