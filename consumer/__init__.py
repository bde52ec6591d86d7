"""mns-consumer: the daemon that consumes the job notifications of Alibaba Cloud MPS from MNS queues.

This package is the implementation. Users import ``mns_consumer`` (``consumer/public``).
"""
