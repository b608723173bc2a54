"""`make demo`: three nodes from a git repository of manifests, and two engines that answer. Real parts only.

`layout` is what lies on disk, `daemons` the processes, `endings` Ctrl-C, `showing` and `asking` what a person sees, and
`__main__` the order of it all. Everything is written below `.demo/`, engine environments (downloads, and minutes of
compiling) into the user's cache.
"""
