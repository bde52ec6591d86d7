"""``python -m consumer`` is ``mns-consumer``.

``-m`` puts the current folder in front of the libraries, so that a file ``typer.py`` there would be imported in the
place of the library. The folder is taken off the path before anything else is imported; this package is found by then.
"""

import os
import sys

if __name__ == "__main__":
    # Where the environment's PYTHONPATH names the folder, it stays: the user asked for it.
    in_front = sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path  # noqa: PTH109 - pathlib is not to be imported yet
    sys.path[:] = [folder for folder in sys.path[in_front:] if folder]
    from consumer.cli.main import main

    sys.exit(main())
