# What stories do between the chapters: what the reader does by hand, what breaks, and what must be so afterwards.

# "Carry ca.pem, and of each machine its own .pem and .key, to /root of that machine."
carry_certificates() {
  local zone
  for zone in eu us ap; do
    cp "$(root office)"/root/ca/{ca.pem,"$zone".pem,"$zone".key} "$(root "$zone")/root/"
  done
}

# A log that forgets soon, so that a lost zone is beyond it. The guide's default is 1 GiB.
little_log() {
  local zone
  for zone in eu us ap; do
    on "$zone" sed -i 's/^#log-bytes = .*/log-bytes = 1048576/' /etc/pghc/coordinator.toml
  done
}

# As an operating system user: one statement as a role.
login() {
  local machine=$1 user=$2 role=$3; shift 3
  on "$machine" runuser -u "$user" -- psql -X -w -U "$role" -d "${database:-pghc}" "$@" -c 'select 1'
}

# pg_hba.conf and pg_ident.conf as shipped: the four logins that the guide names, and no other.
no_stranger_logs_in() {
  local machine=$1 user role
  on "$machine" useradd --system stranger
  must login "$machine" postgres postgres
  for user in postgres pghc root stranger; do
    for role in postgres pghc_setup pghc_node pghc_check pghc_owner; do
      case $user/$role in
        postgres/postgres) ;;
        pghc/pghc_node | pghc/pghc_check | root/pghc_setup | root/pghc_check) must login "$machine" $user $role ;;
        *) refused 'FATAL' login "$machine" $user $role ;;
      esac
      refused 'FATAL' login "$machine" $user $role -h 127.0.0.1
    done
  done
  database=postgres refused 'FATAL' login "$machine" pghc pghc_node
  on "$machine" userdel stranger
}

# Writes COUNT links of a KiB each through the zone's own node.
write() {
  local zone=$1 count=$2
  on "$zone" bash -c 'pad=$(printf "%01000d" 7)
    for n in $(seq "$1"); do echo "{\"payload\":{\"n\":$n,\"pad\":\"$pad\"}}"; done |
      curl -sSf -H "content-type: application/x-ndjson" --data-binary @- "127.0.0.1:8080/v1/chain?timeout=60s" |
      grep -c "\"id\"" | grep -qx "$1"' bash "$count"
}

# The newest id of a zone.
frontier() { on "$1" curl -sf 127.0.0.1:8080/v1/chain/head | sed 's/.*"frontier":\([0-9]*\).*/\1/'; }

# Every zone has what the furthest has, and chain-verify proves it of the databases themselves and of what is answered.
proved() {
  local zone sources=()
  for zone in eu us ap; do sources+=(--zone "$zone=http://127.0.0.1:712$(number "$zone")"); done
  on eu chain-verify --wait 60 "${sources[@]}"
}

healthy() { on eu pghc status --api http://127.0.0.1:7121 --api http://127.0.0.1:7122 --api http://127.0.0.1:7123; }

# Every target of the shipped prometheus.yml answers, with its zone.
scraped() {
  local found
  found=$(on eu curl -sf '127.0.0.1:9090/api/v1/query?query=up==1' | grep -o '"zone":"[a-z]*"' | wc -l)
  echo "$found of $1 targets are up"; [ "$found" = "$1" ]
  on eu curl -sf '127.0.0.1:9090/api/v1/query?query=pghc_verified_timestamp_seconds' | grep '"zone":"eu"'
}

# What a superuser can do: the payload of a link is another one.
tamper() {
  on "$1" runuser -u postgres -- psql -X -q -d pghc -v ON_ERROR_STOP=1 \
    -c 'set session_replication_role = replica' -c "update pghc.chain set payload = '{\"forged\":true}' where id = $2"
}

fenced() { on "$1" curl -s 127.0.0.1:8080/readyz | grep "first bad id is $2"; }

# The files of the database are gone, whatever ran.
lose_database() {
  on "$1" sh -c 'pg_ctlcluster 15 main stop -m immediate; rm -rf /var/lib/postgresql/15/main/base /var/lib/postgresql/15/main/pg_wal'
}

# Writes until every coordinator has purged what an empty zone would need.
fill_the_log() {
  local zone
  purged() {
    write "$1" 500
    for zone in eu us ap; do
      on "$zone" pghc zone list --format json --cluster-id "$cluster" --coordinator http://127.0.0.1:7101 |
        grep '"log_first_id": [0-9]' | grep -v '"log_first_id": [01],' || return 1
    done
  }
  eventually 'the log is purged' purged "$1"
}

# The zone was filled by reading another one: by the node that migrated, or by the one after it.
filled() {
  grep -h 'backfill began' "$work/said by nodes on $1" "$(root "$1")/run/journal/pghc-api.log"
}

# All that runs on a machine is gone at once; its disk stays.
kill_machine() {
  local process own left=yes
  own=$(readlink "/proc/${holder[$1]}/ns/net")
  while [ -n "$left" ]; do
    left=
    for process in /proc/[0-9]*; do
      [ "$(readlink "$process/ns/net" || true)" = "$own" ] || continue
      [ "${process#/proc/}" != "${holder[$1]}" ] || continue
      left=yes
      kill -KILL "${process#/proc/}" || true
    done
  done 2>/dev/null
  rm -f "$(root "$1")"/run/systemctl/* "$(root "$1")"/run/postgresql/.s*
}

# The disk of a coordinator fails under it.
lose_coordinator() {
  on "$1" sh -c 'kill -KILL $(cat /run/systemctl/pghc-coordinator.pid); rm -rf /var/lib/pghc/coordinator/*'
}
