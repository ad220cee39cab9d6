#!/bin/sh
# Makes build/mortalgpu_<version>_amd64.deb and build/mortalgpu-<version>-1.x86_64.rpm from build/mortalgpu and build/mgctl.
# Needs dpkg-deb and rpmbuild (Debian's packages dpkg and rpm). The same input gives the same bytes. OUTPUT and VERSION say
# where to put them and how to number them, for those who try an upgrade.
set -eu
cd "$(dirname "$0")/../.."
output=$(realpath "${OUTPUT:-build}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mortalgpu/build/packages-$$

for needed in build/mortalgpu build/mgctl/mgctl; do
    [ -e $needed ] || { echo "packages: $needed is not there; run \`just binary mgctl\`" >&2; exit 69; }
done
command -v rpmbuild >/dev/null || {
    [ "$(id -u)" = 0 ] || { echo "packages: install the Debian package rpm" >&2; exit 69; }
    apt-get install -y -qq --no-install-recommends rpm >/dev/null
}

version=${VERSION:-$(sed -n 's/^__version__ = "\(.*\)"/\1/p' mortalgpu/__init__.py)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}
export SOURCE_DATE_EPOCH

# What both packages install, by its place.
umask 022
rm -rf "$cache"
tree=$cache/tree
documents=$tree/usr/share/doc/mortalgpu
mkdir -p "$documents" "$tree/usr/bin" "$tree/usr/lib/mortalgpu" "$tree/usr/lib/systemd/system" "$tree/etc/mortalgpu" \
    "$tree/usr/share/bash-completion/completions" "$tree/usr/share/zsh/site-functions"
install -m 755 build/mortalgpu "$tree/usr/bin/mortalgpu"
cp -a build/mgctl "$tree/usr/lib/mortalgpu/mgctl"
ln -s ../lib/mortalgpu/mgctl/mgctl "$tree/usr/bin/mgctl"
install -m 644 systemd/mortalgpu.service "$tree/usr/lib/systemd/system/"
install -m 644 systemd/config.yaml "$tree/etc/mortalgpu/config.yaml"
install -m 600 systemd/mortalgpu.env "$tree/etc/mortalgpu/mortalgpu.env"
cp -r README.md LICENSE build/mortalgpu.cdx.json build/licenses "$documents/"
ln -s "$tree/usr/bin/mortalgpu" "$cache/mgctl"
"$cache/mgctl" completion bash >"$tree/usr/share/bash-completion/completions/mgctl"
"$cache/mgctl" completion zsh >"$tree/usr/share/zsh/site-functions/_mgctl"
find "$tree" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

# The .deb: the tree and a control directory.
deb=$cache/deb
cp -a "$tree" "$deb"
mkdir "$deb/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$(du -sk "$tree" | cut -f1)/" packaging/packages/control >"$deb/DEBIAN/control"
printf '/etc/mortalgpu/config.yaml\n/etc/mortalgpu/mortalgpu.env\n' >"$deb/DEBIAN/conffiles"
(cd "$deb" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$deb/DEBIAN/md5sums"
for script in postinst prerm postrm; do
    install -m 755 "packaging/packages/$script" "$deb/DEBIAN/$script"
done
nice dpkg-deb --root-owner-group -Zxz --build "$deb" "$output/mortalgpu_${version}_amd64.deb" >/dev/null

# The .rpm: rpmbuild copies the tree as its %install.
nice rpmbuild --quiet -bb --target x86_64 --define "_topdir $cache/rpm" --define "tree $tree" --define "release_version $version" \
    --define "_rpmdir $cache/rpm/out" --define "_buildhost mortalgpu" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" --define "_build_id_links none" --dbpath "$cache/rpm/db" \
    packaging/packages/mortalgpu.spec >/dev/null
mv "$cache/rpm/out/x86_64/mortalgpu-$version-1.x86_64.rpm" "$output/"
cd "$output"
for made in "mortalgpu_${version}_amd64.deb" "mortalgpu-$version-1.x86_64.rpm"; do
    echo "$made: $(du -k "$made" | cut -f1) KiB, $(sha256sum "$made" | cut -c1-64)"
done
rm -rf "$cache"
