# The story of deploy/patroni.md: zone eu has two servers, loses the primary's machine, and nothing is lost.
borrow "$repository/deploy/README.md"
pages "$repository/deploy/patroni.md"
source "$here/stories/steps.sh"

for zone in eu us ap office; do machine "$zone" "10.77.0.$((${#machines[@]} + 1))"; done
machine eu2 10.77.0.5
chapter certificates
carry_certificates
chapter install
chapter database 'us ap'
chapter patroni-first
cp "$(root eu)/root/patroni.yml" "$(root eu2)/root/"
chapter patroni-second
chapter patroni-node
chapter tunnel
chapter coordinators
chapter nodes
eventually "all is healthy" healthy
for zone in eu us ap; do must write "$zone" 20; done
chapter patroni-switchover
must write eu 20
must proved

say 'eu2: the machine of the primary dies'
kill_machine eu2
must write eu 20
must write us 20
must proved
say 'eu2: it is back'
on eu2 systemctl start patroni
eventually 'eu2 follows' on eu2 curl -sf http://10.77.0.5:8008/replica
must proved
