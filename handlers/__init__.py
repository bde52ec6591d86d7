"""The shipped handlers: one file for each FunctionName, with its result's model and a function that only logs.

Nothing is registered by importing this package; the daemon uses it only when asked (``shipped``). A model may be
taken from here for a handler of one's own:

    from handlers.cover import CoverResult
"""
