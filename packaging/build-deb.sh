#!/usr/bin/env bash
# Builds a Debian package of trunkline with dpkg-deb: the program, its unit, completions and manual pages.
#
#   packaging/build-deb.sh [BINARY [DIRECTORY]]
#
# BINARY is target/release/trunkline unless said, DIRECTORY where the package is put (target/debian). Prints its path.
# PACKAGE_REVISION is the part of the version behind the program's, DEB_COMPRESSION what dpkg-deb compresses with (xz).
# The configuration with its random secrets is made on the machine, when the package is installed there first.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
binary="${1:-$root/target/release/trunkline}"
out="${2:-$root/target/debian}"
[ -x "$binary" ] || { echo "no program at $binary: cargo build --release" >&2; exit 1; }
version="$("$binary" --version | cut -d' ' -f2)${PACKAGE_REVISION:+-$PACKAGE_REVISION}"
architecture="$(dpkg --print-architecture)"

tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

install -D -m 755 "$binary" "$tree/usr/bin/trunkline"
install -d "$tree/usr/lib/systemd/system" "$tree/usr/share/doc/trunkline"
sed 's|/usr/local/bin/trunkline|/usr/bin/trunkline|; /^#   useradd /d; /^#   systemctl daemon-reload/d' \
    "$root/tuning/trunkline.service" > "$tree/usr/lib/systemd/system/trunkline.service"
install -m 644 "$root/CHANGELOG.md" "$root/README.md" "$tree/usr/share/doc/trunkline/"
{
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo
    echo "Files: *"
    echo "Copyright: the trunkline authors"
    echo "License: MIT or Apache-2.0"
    sed 's/^$/./; s/^/ /' "$root/LICENSE-MIT"
    echo
    echo "Files: src/control/console/vendored/*"
    echo "Copyright: 2022 Leon Sorokin"
    echo "License: MIT"
    sed 's/^$/./; s/^/ /' "$root/src/control/console/vendored/LICENSE.txt"
} > "$tree/usr/share/doc/trunkline/copyright"

for shell in bash:bash-completion/completions/trunkline zsh:zsh/vendor-completions/_trunkline \
    fish:fish/vendor_completions.d/trunkline.fish; do
    file="$tree/usr/share/${shell#*:}"
    mkdir -p "${file%/*}"
    "$binary" completions "${shell%%:*}" > "$file"
done
mkdir -p "$tree/usr/share/man/man1"
"$binary" man | gzip -9n > "$tree/usr/share/man/man1/trunkline.1.gz"
for command in $("$binary" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    [ "$command" = help ] || "$binary" man "$command" | gzip -9n > "$tree/usr/share/man/man1/trunkline-$command.1.gz"
done

mkdir -p "$tree/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$root/packaging/debian/$script" "$tree/DEBIAN/$script"
done
find "$tree" -type d -exec chmod 755 {} +
find "$tree/usr" -type f ! -path '*/bin/*' -exec chmod 644 {} +
cat > "$tree/DEBIAN/control" <<CONTROL
Package: trunkline
Version: $version
Architecture: $architecture
Maintainer: the trunkline authors <trunkline@localhost>
Installed-Size: $(du -k -s "$tree/usr" | cut -f1)
Depends: libc6 (>= 2.34), passwd
Section: net
Priority: optional
Description: long-connection daemon in front of an HTTP backend
 Holds WebSocket, event-stream and polling clients, fans out what a backend
 publishes over HTTP, and gives those who were away what they missed.
CONTROL

mkdir -p "$out"
package="$out/trunkline_${version}_$architecture.deb"
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$tree" "$package" >/dev/null
echo "$package"
