"""Makes Ansible's modules see a Mac: the platform's name decides which facts and which implementations they choose.

Only this interpreter is told. What it starts (uv, a venv, the daemon) is a Linux program and must know it, so the path
to this file is taken out of the environment again.
"""

import os
import platform
import sys

RELEASE = "25.2.0"
VERSION = "Darwin Kernel Version 25.2.0: RELEASE_ARM64_T6041"
NODE = os.uname().nodename

os.uname = lambda: os.uname_result(("Darwin", NODE, RELEASE, VERSION, "arm64"))
platform.system = lambda: "Darwin"
platform.machine = lambda: "arm64"
platform.release = lambda: RELEASE
platform.version = lambda: VERSION
platform.mac_ver = lambda *arguments, **keywords: ("26.2", ("", "", ""), "arm64")

os.environ.pop("PYTHONPATH", None)
# Modules that start Python again (asynchronous tasks) take this one.
sys.executable = "/usr/local/fakemac/python3"
