"""The catalogue: one module for each FunctionName, with its models, its input and output, and a sample.

A new function is one new module here, and its names in ``consumer/public/mns_consumer/functions.py``.
"""
