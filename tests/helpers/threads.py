"""Run functions in threads."""

import threading


def run_threads(*calls):
    """Run each function in a thread, all at the same time."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
