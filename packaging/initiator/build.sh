#!/bin/sh
# Builds the Debian package xblade-initiator: build.sh FOLDER. Needs dpkg-deb and gzip.
set -eu
to=${1:?usage: build.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r "$here/root/." "$tree"
mkdir "$tree/DEBIAN"
cp "$here"/debian/* "$tree/DEBIAN"
sed -i "s/@VERSION@/$version-1/" "$tree/DEBIAN/control"
doc=$tree/usr/share/doc/xblade-initiator
mkdir -p "$doc"
cp "$here/../debian/copyright" "$doc"
sed 's/^xblade /xblade-initiator /' "$here/../debian/changelog" | gzip -9n >"$doc/changelog.Debian.gz"
# Whatever the mask of the user who checked this out.
chmod -R u=rwX,go=rX "$tree"
mkdir -p "$to"
dpkg-deb --root-owner-group -Zxz --build "$tree" "$to"
