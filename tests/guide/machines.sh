# Machines for the guide: sourced by run.sh inside namespaces of its own (mounts, network, processes), as root.
#
# A machine is a copy-on-write view of this system's files, a network of its own and a host name. Nothing that is
# done on one reaches this system; all of it is gone with the last process. `machine/` holds what a real machine
# has and these lack: a service manager and its journal, packages, a way into the others, in a few lines.
#
#   machine NAME ADDRESS     makes one
#   on NAME COMMAND...       runs a command there, as root; `on NAME` alone reads a script from standard input
#   pages FILE...            reads the marked blocks of these pages; each must have been run when the story ends
#   borrow FILE...           reads blocks of pages that another story runs to their end
#   chapter NAME             runs the blocks of that chapter, in the order of the page
#   eventually WHAT CMD...   repeats a command until it succeeds, 90 s at most

machines=()
declare -A holder address
bridge() { ip link add guide type bridge && ip address add 10.77.0.254/24 dev guide && ip link set guide up && ip link set lo up; }

machine() {
  local name=$1 at=$2 dir=$work/machines/$1
  mkdir -p "$dir"/{up,scratch,root}
  mount -t overlay overlay -o "lowerdir=$work/shared:/,upperdir=$dir/up,workdir=$dir/scratch" "$dir/root"
  mount -t proc proc "$dir/root/proc"
  mount --rbind /dev "$dir/root/dev"
  mount -t tmpfs -o mode=0755 run "$dir/root/run"
  mount -t tmpfs -o mode=1777 tmp "$dir/root/tmp"
  install -d -m 0755 "$dir/root/run/journal" "$dir/root/run/lock"
  install -d -o postgres -g postgres -m 2775 "$dir/root/run/postgresql"
  rm -rf "$dir"/root/etc/postgresql/* "$dir"/root/var/lib/postgresql/*
  empty_cluster "$dir/root"
  # Its network and host name live as long as this process.
  unshare -n -u sleep infinity & holder[$name]=$!
  local own theirs=; own=$(readlink /proc/self/ns/net)
  until [ -n "$theirs" ] && [ "$theirs" != "$own" ]; do
    sleep 0.02; theirs=$(readlink "/proc/${holder[$name]}/ns/net" || true)
  done
  ip link add "g-$name" type veth peer name eth0 netns "${holder[$name]}"
  ip link set "g-$name" master guide up
  nsenter -t "${holder[$name]}" -n -u bash -c \
    "hostname $name && ip link set lo up && ip address add $at/24 dev eth0 && ip link set eth0 up"
  # Sockets of the others' databases, for `machine/ssh`.
  local other
  for other in "${machines[@]}"; do
    install -d "$(root "$name")/run/machines/$other" "$(root "$other")/run/machines/$name"
    mount --bind "$(root "$other")/run/postgresql" "$(root "$name")/run/machines/$other"
    mount --bind "$(root "$name")/run/postgresql" "$(root "$other")/run/machines/$name"
  done
  machines+=("$name") address[$name]=$at
  for other in "${machines[@]}"; do
    printf '127.0.0.1 localhost\n' >"$work/machines/$other/root/etc/hosts"
    for known in "${machines[@]}"; do printf '%s %s.pghc.example\n' "${address[$known]}" "$known"; done \
      >>"$work/machines/$other/root/etc/hosts"
  done
}

# What Debian's package leaves behind when it is installed: a cluster `main`, here never started.
empty_cluster() {
  local etc=$1/etc/postgresql/15/main data=$1/var/lib/postgresql/15/main
  install -d -o postgres -g postgres "$etc" "${data%/main}"
  install -d -o postgres -g postgres -m 0700 "$data"
  echo 15 >"$data/PG_VERSION"
  printf "data_directory = '/var/lib/postgresql/15/main'\nport = 5432\n" >"$etc/postgresql.conf"
  chown postgres "$data/PG_VERSION" "$etc/postgresql.conf"
}

root() { echo "$work/machines/$1/root"; }

on() {
  local name=$1; shift
  [ $# != 0 ] || set -- bash -euo pipefail -c "$(cat)"
  nsenter -t "${holder[$name]}" -n -u env -i HOME=/root USER=root TERM=dumb LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    zone="$name" id="$(number "$name")" cluster="$cluster" \
    chroot "$(root "$name")" /bin/bash -c 'cd /root/pghc && exec "$@"' bash "$@" </dev/null
}

# The id of a zone's coordinator.
number() { case $1 in eu*) echo 1 ;; us*) echo 2 ;; ap*) echo 3 ;; *) echo 0 ;; esac; }

borrow() { split_into borrowed "$@"; }
pages() { split_into blocks "$@"; }

# Splits pages into $work/DIRECTORY/NUMBER CHAPTER MACHINE.
split_into() {
  local dir=$work/$1; shift
  mkdir -p "$dir"
  awk -v dir="$dir" '
    FNR == 1 { inside = 0 }
    inside && /^```$/ { inside = 0; close(file); next }
    inside { print >file; next }
    /^```sh guide=/ {
      chapter = machine = ""
      for (i = 2; i <= NF; i++) { split($i, pair, "="); if (pair[1] == "guide") chapter = pair[2]; if (pair[1] == "on") machine = pair[2] }
      file = sprintf("%s/%03d %s %s", dir, ++count, chapter, machine); printf "" >file; inside = 1; next
    }
    /^```/ { other = !other; if (other && $0 ~ /^```(sh|bash|shell)/) { print FILENAME ": " FNR ": a block of commands without guide=CHAPTER on=MACHINE" >"/dev/stderr"; exit 1 } }
  ' "$@"
}

chapter() {
  local name=$1 block text found= machine where; shift
  local zones=("${@:-eu us ap}"); read -ra zones <<<"${zones[*]}"
  for block in "$work"/{blocks,borrowed}/*" $name "*; do
    [ -e "$block" ] || continue
    IFS= read -r -d '' text <"$block" || true
    [ -n "$text" ] || fail "the block of chapter $name is empty"
    found=yes where=${block##* }
    case $where in each) where=${zones[*]} ;; *) where=${where//,/ } ;; esac
    for machine in $where; do
      say "$name on $machine"
      # The reader has one shell on each machine; what a block leaves running there goes on.
      if ! on "$machine" timeout 180 bash -euo pipefail -c "$text" >"$work/output" 2>&1 </dev/null; then
        fail "the block of chapter $name failed on $machine:" "$text"
      fi
      cp "$work/output" "$work/said by $name on $machine"
      [ -z "${PGHC_GUIDE_VERBOSE:-}" ] || sed 's/^/    /' "$work/output"
    done
    echo "$block" >>"$work/ran"
  done
  [ -n "$found" ] || fail "no page has a chapter $name"
}

# Every block that a page has must have been run.
all_were_run() {
  local block missing=0
  for block in "$work"/blocks/*; do
    grep -qxF "$block" "$work/ran" || { echo "guide: never run: ${block##*/}"; missing=1; }
  done
  return $missing
}

# Ends the story, with what the last command said; the journals come before it.
fail() {
  printf 'guide: %s\n' "$@" >"$work/failure"
  { echo 'it said:'; tail -n 60 "$work/output" | sed 's/^/    /'; } >>"$work/failure"
  return 1
}

# Runs a command that must succeed, quietly.
must() { "$@" >"$work/output" 2>&1 || fail "failed: $*"; }

say() { printf '%5d s  %s\n' "$((SECONDS - began))" "$*"; }

eventually() {
  local what=$1 end=$((SECONDS + 90)); shift
  until "$@" >"$work/output" 2>&1; do
    [ $SECONDS -lt $end ] || fail "never came: $what"
    sleep 0.3
  done
}

# Expects a command to fail with words in what it says.
refused() {
  local words=$1; shift
  if "$@" >"$work/output" 2>&1; then fail "should have been refused: $*"; fi
  grep -q -- "$words" "$work/output" || fail "refused without '$words': $*"
}

# Shows what the machines' processes said, after a failure.
journals() {
  local name log
  for name in "${machines[@]}"; do
    for log in "$(root "$name")"/run/journal/*.log; do
      [ -e "$log" ] || continue
      echo "--- $name: ${log##*/}"; tail -n "${PGHC_GUIDE_LINES:-15}" "$log" | cut -c1-400
    done
  done
}
