"""Put first on PYTHONPATH, it sends this process a signal at the moment that a module is looked for.

SIGNAL_AT : the module. SIGNAL : the number; sent once.
"""

import os
import sys

_sent = []


def _audit(event, arguments):
    if event == "import" and arguments[0] == os.environ.get("SIGNAL_AT") and not _sent:
        _sent.append(True)
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))


sys.addaudithook(_audit)
