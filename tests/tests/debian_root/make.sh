# Makes a file system with a Debian that boots: the tree, the package under test installed in it by dpkg, and what the caller adds.
# Arguments: an empty folder, the tree, the package, a folder with files to add, the initramfs to make (initramfs-tools or dracut), mke2fs and its
# arguments. All mounts are in a namespace of their own.
set -e
place=$1 tree=$2 package=$3 files=$4 initramfs=$5
shift 5
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root" "$place/empty"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" "$place/root"
root=$place/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
in_tree() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" "$@"
}
cp "$package" "$root/package.deb"
in_tree dpkg --install /package.deb
rm "$root/package.deb"
kernel=$(ls "$root/lib/modules")
case $initramfs in
initramfs-tools) in_tree lsinitramfs "/boot/initrd.img-$kernel" ;;
dracut)
    in_tree dracut --force --no-hostonly --kver "$kernel" "/boot/initrd.img-$kernel"
    in_tree lsinitrd "/boot/initrd.img-$kernel"
    ;;
esac
umount -R "$root/proc" "$root/sys" "$root/dev"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/doc "$root"/usr/share/locale
: >"$root/etc/machine-id"
cp -r "$files/." "$root"
ln -s "vmlinuz-$kernel" "$root/boot/vmlinuz"
ln -s "initrd.img-$kernel" "$root/boot/initrd.img"
"$@" -d "$root"
