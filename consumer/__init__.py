"""mns-consumer: the daemon that takes MPS's job notifications from MNS queues."""
