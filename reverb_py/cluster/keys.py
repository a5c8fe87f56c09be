"""What a deployment's keys and topics in Redis are called."""

from __future__ import annotations

__all__ = ["Keys"]


class Keys:
    """
    The names that begin with a deployment's prefix.

    A channel's keys begin like its topic, whose braces put them into one slot of a Redis Cluster.
    `nodes` are the names under which nodes live, `gone` those that were given up.
    """

    def __init__(self, prefix: str, node_id: str) -> None:
        self._prefix = prefix
        self.nodes = f"{prefix}{{nodes}}".encode()
        self.gone = self.nodes + b".gone"
        self._held_by = f"{prefix}nodes.".encode()
        self.control_topic = f"{prefix}control".encode()
        # In one slot of a Redis Cluster with the topic.
        self.orders = f"{prefix}orders{{{prefix}control}}".encode()
        self.own_topic = self.topic_of_node(node_id)

    def topic(self, app_id: str, name: str) -> bytes:
        """Return the topic of a channel, or of a user."""
        return f"{self._prefix}{{{app_id}:{name}}}".encode()

    def topic_of_node(self, node_id: str) -> bytes:
        """Return the topic to which a node listens alone."""
        return f"{self._prefix}node.{node_id}".encode()

    def held_by(self, name: bytes) -> bytes:
        """Return the key of the set of topics in which a node of this name holds something."""
        return self._held_by + name

    def idempotency(self, app_id: str, key: str) -> bytes:
        """Return the key of what was answered under an idempotency key."""
        return f"{self._prefix}idempotency.{app_id}.{key}".encode()
