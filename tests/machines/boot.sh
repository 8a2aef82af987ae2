# A machine: a root filesystem of its own, with processes, a network, a name and an sshd of its own.
#
#   unshare --net sh boot.sh ROOT DISK NAME
#
# It is switched on by each line of the input, and off by a SIGKILL of this script's child. The network stays. At the
# end of this script it is off, too.
#
# ROOT is the read-only root filesystem, DISK the folder for all that is written. `/` is a mount point of its own, and
# no chroot: runsc works there.
set -eu
if [ "${4:-}" != on ]; then
    ip link set lo up
    while read -r _; do
        setpriv --pdeathsig KILL \
            unshare --mount --pid --fork --kill-child --uts --ipc sh "$0" "$@" on </dev/null || true
    done
    exit
fi
disk=$2 name=$3
root=$disk/root
mkdir -p "$disk/upper" "$disk/work" "$root"
mount -t overlay -o "lowerdir=$1,upperdir=$disk/upper,workdir=$disk/work" none "$root"
mount -t tmpfs -o mode=755 none "$root/run"
mkdir "$root/run/sshd"
mount -t tmpfs -o mode=755 none "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys"
hostname "$name"
cd "$root"
mkdir -p old
pivot_root . old
exec /bin/sh -c 'umount -l /old && exec /usr/sbin/sshd -D -e' <&-
