# The story of deploy/README.md and deploy/pgbackrest.md: three machines and an office, set up, watched, hurt and mended.
pages "$repository"/deploy/{README,pgbackrest}.md
source "$here/stories/steps.sh"

for zone in eu us ap office; do machine "$zone" "10.77.0.$((${#machines[@]} + 1))"; done
chapter certificates
carry_certificates
chapter install
little_log
chapter database
no_stranger_logs_in us
chapter tunnel
chapter coordinators
chapter nodes
chapter check
for zone in eu us ap; do must write "$zone" 20; done
chapter verify
must on eu sh -c 'systemd-analyze verify /etc/systemd/system/pghc-*'
chapter prometheus
eventually 'every target is scraped' scraped 7

say 'us: a superuser changes a payload; the proof finds it'
tamper us 7
refused 'VIOLATION' proved
must write eu 20
chapter reseed
must proved

say 'ap: the database is gone; the log brings it back'
lose_database ap
must write us 20
chapter lost-database
chapter database ap
chapter nodes ap
must proved

say 'ap: the database is gone, and the log no longer reaches back'
lose_database ap
on ap systemctl stop pghc-api
fill_the_log eu
chapter restart 'eu us'
on ap systemctl restart pghc-coordinator
chapter lost-database
chapter database ap
chapter nodes ap
must proved
must filled ap

say "ap: the coordinator's disk is gone"
lose_coordinator ap
must write eu 20
chapter replace
must proved
eventually 'all is healthy' healthy

say 'us, ap: the disks of two coordinators of three are gone'
lose_coordinator us
lose_coordinator ap
chapter recover
chapter recover-others
for zone in eu us ap; do must write "$zone" 20; done
must proved
eventually 'all is healthy' healthy

say 'us: a backup, then the database is gone under a running node'
chapter backup
must write eu 50
lose_database us
must write eu 20
chapter restore
must proved
