uname -a; ls -la /dev/kvm; cat /proc/uptime; echo $PATH
ls /sys/block
