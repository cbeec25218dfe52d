lab_clean() { rm -rf "$1"; }
