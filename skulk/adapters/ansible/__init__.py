"""Ansible, run as a program of its own through ansible-runner: where its playbooks are, what it is given, how it ends.

Nothing of Ansible is imported here before a run, and nothing of it stays afterwards: no process, no file.
"""

from __future__ import annotations

from skulk.adapters.ansible.playbooks import export, own_playbooks, playbooks_dir
from skulk.adapters.ansible.runner import Order, Run, find_ansible, run

__all__ = ["Order", "Run", "export", "find_ansible", "own_playbooks", "playbooks_dir", "run"]
