"""Python imports this at start: every process that a test starts is held to loopback too."""

from loopback_only import refuse_other_sockets

refuse_other_sockets()
