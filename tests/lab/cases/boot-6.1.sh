# shellcheck shell=bash
# limit: 600
# Debian's stock 6.1 kernel in small and large guests.
. "$lab/boot-matrix.sh" 6.1 <<END
1 256 poweroff
2 6144 reboot
END
