#!/usr/bin/env bash
# Runs a story over the pages of deploy/: their blocks of commands on machines of namespaces, and what breaks between.
# tests/guide/main.rs starts it: run.sh REPOSITORY BINARIES WORK STORY, as root, in namespaces of its own.
set -euo pipefail
repository=$1 binaries=$2 work=$3 story=$4
here=$repository/tests/guide began=$SECONDS
mount --make-rprivate /
mount -t tmpfs -o size=8g guide "$work"
cluster=$(cat /proc/sys/kernel/random/uuid)
source "$here/machines.sh"

# What every machine has beside this system: the checkout with its programs, and the service manager.
mkdir -p "$work"/shared/{root/pghc/target/dist,usr/local/bin}
cp -r "$repository/deploy" "$work/shared/root/pghc/"
cp "$binaries"/{pghc,chain-verify} "$work/shared/root/pghc/target/dist/"
install -m 0755 "$here"/machine/* "$work/shared/usr/local/bin/"
chmod 0700 "$work/shared/root"

trap 'rc=$?; [ $rc = 0 ] || { journals; cat "$work/failure" "$work/output"; }; exit $rc' EXIT
bridge
source "$here/stories/$story.sh"
all_were_run
say "done: every block of the pages was run"
