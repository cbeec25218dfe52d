#!/usr/bin/env bash
# Installs the Debian packages that building, testing and demonstrating plumb need. As root, or
# through sudo. Quick when they are there.
set -euo pipefail

packages=(
  # building
  g++ cmake ninja-build ccache lld acpica-tools git
  # libraries
  liburing-dev libaio-dev libseccomp-dev libboost1.81-dev libfmt-dev libcli11-dev libtomlplusplus-dev
  nlohmann-json3-dev systemtap-sdt-dev libdevmapper-dev libvirt-dev libxml2-dev libssl-dev
  # tests and checks
  catch2 curl clang libclang-rt-14-dev llvm-14 clang-format clang-tidy shellcheck python3
  fio strace util-linux iproute2
  # guests of libvirt: a daemon of the test's own
  libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-utils
  # hooks of guests; their test uses PostgreSQL too, where it is: its package would start a server
  qemu-guest-agent mariadb-server-core mariadb-client-core
  # the lab: a QEMU machine with a stock kernel, and the guests that run in it
  qemu-system-x86 busybox-static mmdebstrap cpio kmod zstd xz-utils lz4 e2fsprogs xfsprogs btrfs-progs
  dmsetup lvm2 thin-provisioning-tools nbdkit libnbd-bin libiscsi-bin sg3-utils
  # clients of NBD, with keys for TLS
  python3-libnbd gnutls-bin
)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
    missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "deps.sh: these packages are missing, and neither root nor sudo is at hand: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi

echo "Installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  "${missing[@]}" >/dev/null
