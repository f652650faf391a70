"""A program that dies as one does whose driver crashes."""

import os
import signal

os.kill(os.getpid(), signal.SIGSEGV)
