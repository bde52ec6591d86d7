"""``python -m consumer`` is ``mns-consumer``, which begins here too.

``-m`` puts the current folder in front of the libraries, so that a file ``typer.py`` there would be imported in the
place of the library. The folder is taken off the path before anything else is imported; this package is found by then.
"""

import os
import sys

_INTERRUPTED = 130


def main() -> int:
    """Run the command of the process's arguments; Ctrl-C while its modules are imported is 130 too, and no traceback.

    Returns:
        The exit code.
    """
    import signal  # noqa: PLC0415 - after the path is set

    def leave(*_: object) -> None:
        # Not by an exception: one that comes while a module is imported may be printed and lost.
        os._exit(_INTERRUPTED)

    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the parent has it ignored
    if is_ours:
        signal.signal(signal.SIGINT, leave)
    from consumer.cli.main import main as run  # noqa: PLC0415 - as above

    try:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    # Where the environment's PYTHONPATH names the folder, it stays: the user asked for it.
    in_front = sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path  # noqa: PTH109 - pathlib is not to be imported yet
    sys.path[:] = [folder for folder in sys.path[in_front:] if folder]
    sys.exit(main())
