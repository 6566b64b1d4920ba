"""Names for the numbers and byte strings that identify things. No behaviour."""

from typing import NewType

PartyId = NewType("PartyId", int)
"""A party's position in the plan's list, from 1 up. Also its Shamir abscissa: never 0."""

AGGREGATOR = PartyId(0)
"""The sender id of the aggregator. 0 is never a party: a share at x = 0 would be the secret."""

LayerIndex = NewType("LayerIndex", int)
"""A transformer block, counted from 0 as in the model's own module names."""

TaskIndex = NewType("TaskIndex", int)
"""A secure sum inside a session, counted from 0."""
