# shellcheck shell=bash
# limit: 600
# Debian's stock 6.12 kernel in small and large guests.
. "$lab/boot-matrix.sh" 6.12 <<END
2 256 poweroff
1 6144 reboot
END
