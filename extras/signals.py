"""What ends a process from outside: Ctrl-C, SIGTERM (a time limit) and SIGHUP (a closed terminal)."""

import signal
import threading
from contextlib import contextmanager

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: no SIGHUP
DEFAULTS = (signal.default_int_handler, signal.SIG_DFL)


@contextmanager
def handled(handler):
    """Within the block `handler` gets those of the signals above that have default handlers; in the main thread only."""
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: old for number in ENDING if (old := signal.getsignal(number)) in DEFAULTS and main_thread}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def ctrl_c_ends_at_once(at_once=True):
    """Ctrl-C prints no traceback from here to ctrl_c_ends_at_once(False): while a script's imports run."""
    old, new = DEFAULTS if at_once else DEFAULTS[::-1]
    if signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)
