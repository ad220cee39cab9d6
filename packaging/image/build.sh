#!/bin/sh
# Makes build/image.tar, an OCI archive of the image (`ctr images import`, `podman load`, `skopeo copy oci-archive:…`), from
# build/mortalgpu and build/mgctl. Needs Debian's package buildah; no registry, no engine, no network. The same input gives the
# same bytes.
set -eu
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mortalgpu/build/image

for needed in build/mortalgpu build/mgctl/mgctl; do
    [ -e $needed ] || { echo "image: $needed is not there; run \`just binary mgctl\`" >&2; exit 69; }
done
command -v buildah >/dev/null || {
    [ "$(id -u)" = 0 ] || { echo "image: install the Debian package buildah" >&2; exit 69; }
    apt-get install -y -qq --no-install-recommends buildah >/dev/null
}

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' mortalgpu/__init__.py)
commit=$(git rev-parse HEAD 2>/dev/null || true)
moment=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}

umask 022
rm -rf "$cache/context"
rootfs=$cache/context/rootfs
documents=$rootfs/usr/share/doc/mortalgpu
mkdir -p "$rootfs/usr/bin" "$rootfs/usr/lib/mortalgpu" "$rootfs/tmp" "$documents"
chmod 1777 "$rootfs/tmp"
cp build/mortalgpu "$rootfs/usr/bin/mortalgpu"
cp -a build/mgctl "$rootfs/usr/lib/mortalgpu/mgctl"
ln -s ../lib/mortalgpu/mgctl/mgctl "$rootfs/usr/bin/mgctl"
cp -r build/mortalgpu.cdx.json build/licenses LICENSE "$documents/"

layout=$cache/layout
rm -rf "$layout"
nice buildah --root "$cache/storage" --runroot "$cache/run" --storage-driver vfs build \
    --isolation chroot --format oci --layers=false --timestamp "$moment" --quiet \
    --label org.opencontainers.image.title=mortalgpu \
    --label "org.opencontainers.image.description=Shares the NVIDIA GPUs of a node between containers" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$commit" \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --tag "oci:$layout:docker.io/library/mortalgpu:$version" \
    --file packaging/image/Containerfile "$cache/context" >/dev/null
# Put in place whole: somebody may be reading the one before.
tar --create --file build/image.tar.new --directory "$layout" --sort=name --format=ustar --mtime="@$moment" \
    --owner=0 --group=0 --numeric-owner blobs index.json oci-layout
mv build/image.tar.new build/image.tar
rm -rf "$layout" "$cache/storage" "$cache/run"
echo "build/image.tar: mortalgpu:$version, $(du -k build/image.tar | cut -f1) KiB, $(sha256sum build/image.tar | cut -c1-64)"
