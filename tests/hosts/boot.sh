#!/bin/bash
# Boots one test host. Runs as the first process of its PID, mount, UTS, IPC and cgroup namespaces and becomes systemd.
# What hosts.py hands over: NAME, LOWER (lowerdir= of overlayfs), UPPER, WORK, ROOT (empty directories of this host),
# FIRST (a tree that is unpacked over the root at the first boot only, as a tar file, or empty).
set -euo pipefail
trap 'echo "boot.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR

# volatile: nothing waits for the disk, as no file outlives the session. (It marks WORK, which each boot makes anew.)
mount -t overlay overlay -o "volatile,lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
cd "$ROOT"
mkdir -p proc sys dev run tmp

# The kernel is shared: nothing in a host may change vm.*, kernel.*, fs.* for everybody. net.* is the namespace's own.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

hostname "$NAME"
if [ -n "$FIRST" ]; then
  # Directories that exist keep their mode and owner: a file tree in a checkout knows neither.
  tar --extract --file "$FIRST" --no-overwrite-dir
fi

# Not chroot: units that ask for a sandbox need a root of their own mount namespace.
mkdir -p .before
pivot_root . .before
umount -l /.before
rmdir /.before
exec env -i container=testhost PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /sbin/init --log-target=console --show-status=no
