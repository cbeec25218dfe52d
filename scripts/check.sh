#!/usr/bin/env bash
# Checks of the source that need no running program: format, layers, headers that stand alone,
# shell scripts, sizes, tidy. Used by scripts/test.sh and as the git pre-push hook
# (`ln -s ../../scripts/check.sh .git/hooks/pre-push`).
#
# Usage: scripts/check.sh [CHECK…], each one of: format layers headers shell sizes tidy
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

build=${PLUMB_BUILD:-build/dev}  # its compile commands are used by tidy
passed=0
failed=0

sources() { git ls-files '*.cc' '*.h'; }

check_format() { sources | xargs clang-format --dry-run -Werror; }

check_layers() { python3 tests/layers/layers.py . && python3 tests/layers/layers_test.py; }

# Headers that no source of the same name includes first: the others compile alone in every build.
lone_headers() {
  local header source
  git ls-files '*.h' ':!tests/fuzz' | while read -r header; do
    for source in "${header%.h}.cc" "${header%.h}_test.cc"; do
      [ "$(grep -m 1 '^#include' "$source" 2>/dev/null)" = "#include \"$header\"" ] && continue 2
    done
    echo "$header"
  done
}

# Each header compiles alone, so that it can be read and included alone.
check_headers() {
  lone_headers | xargs -P "$(nproc)" -I{} \
    g++ -std=c++23 -fsyntax-only -x c++ -I . -Wno-pragma-once-outside-header {} || return 1
  # libFuzzer's own header is clang's.
  git ls-files 'tests/fuzz/*.h' | xargs -P "$(nproc)" -I{} \
    clang++ -std=c++2b -fsyntax-only -x c++ -I . -Wno-pragma-once-outside-header {}
}

check_shell() {
  git ls-files '*.sh' .ci/run tests/lab/{run,prepare,machine,postgres-root,ceph-node} 'docs/hooks/fsfreeze-hook*' | sort -u | xargs shellcheck -x
}

# A file past 600 lines, or a line past 100 columns, is usually two things under one name.
check_sizes() {
  local long
  long=$(sources | grep -v '_test\.cc$' | xargs wc -l | awk '$2 != "total" && $1 > 600')
  [ -z "$long" ] || { echo "files over 600 lines:"; echo "$long"; return 1; }
}

# Minutes long, so the hook and a hand run it, and scripts/test.sh leaves it out.
check_tidy() {
  [ -f "$build/compile_commands.json" ] || cmake --preset dev >/dev/null || return 1
  python3 scripts/tidy.py "$build"
}

run() {
  local started=$SECONDS output
  if output=$("check_$1" 2>&1); then
    passed=$((passed + 1))
    echo "PASS check $1 ($((SECONDS - started)) s)"
  else
    failed=$((failed + 1))
    echo "$output"
    echo "FAIL check $1"
  fi
}

# As a hook, git passes the remote's name and address: no checks by those names.
case "${1:-}" in
  format | layers | headers | shell | sizes | tidy) checks=("$@") ;;
  *) checks=(format layers headers shell sizes tidy) ;;
esac
for check in "${checks[@]}"; do run "$check"; done
echo "checks: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
