"""Child processes, the process they are forked off, and the resources of the machine."""
